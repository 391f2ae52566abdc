//! Two machines, one of which takes over when the other fails.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use harness::machines::engine::Engine;
use harness::machines::image::Debian;
use harness::machines::link::Link;
use harness::machines::product_machine::upgradable;
use harness::machines::transcript::Transcript;
use harness::machines::world::World;
use harness::packages::shipped::definition::PRODUCT;

use crate::detached::{wait_until, while_running};
use crate::scenario::scenarios;

scenarios! {
    /// The active node of a pair is not upgraded before the passive one; each shows its role,
    /// the other's version and the next step, and hooks learn the role.
    Compared pair_in_order;
    /// With --ignore-peer the active node is upgraded first; a passive node that is ahead upgrades no further until the active one has followed.
    Compared pair_out_of_order;
    /// A passive node is upgraded while the active one is down; an active one needs --ignore-peer for that.
    Compared pair_with_one_node_down;
    /// A passive node that takes over in the middle of its upgrade completes it and reports the changed role.
    Compared pair_failover_during_an_upgrade;
    /// No upgrade begins on a node whose role is unknown; an interrupted one is completed all the same.
    Compared pair_role_unknown;
}

/// What the vendor says of the pair.
const DEFINITION: &str =
    "[pair]\nrole = [\"/usr/lib/xivo/node\", \"role\"]\npeer-version = [\"/usr/lib/xivo/node\", \"peer\"]\n";

/// What a product that comes in pairs has: each node tells the other its version, and a passive one that hears nothing of the active one
/// takes over if it is meant to.
const NODE: &str = r#"#!/bin/bash
ask() { timeout 2 bash -c "exec 3<>/dev/tcp/$(cat /etc/xivo-peer)/7070 && cat <&3" 2>/dev/null || { echo "the other node does not answer"; return 1; }; }
case $1 in
tell) exec dpkg-query --show --showformat '${Version}\n' xivo ;;
peer) ask ;;
role)
    if [ -e /etc/xivo-takes-over ] && ! ask >/dev/null; then echo active; else cat /etc/xivo-role; fi
    ;;
esac
"#;

/// Where the other node asks.
const SOCKET: &str = "[Socket]\nListenStream=7070\nAccept=yes\n";
const ANSWER: &str = "[Service]\nExecStart=/usr/lib/xivo/node tell\nStandardInput=socket\n";

/// A hook that shows what it is told.
const HOOK: &str = "#!/bin/sh\necho \"$UPGRADE_PHASE on the $UPGRADE_NODE_ROLE node\" >>/root/told\n";

/// A hook that kills the process that works, the first time, and then says what it was told.
const KILL: &str = "#!/bin/sh\nif mkdir /root/killed 2>/dev/null; then kill -KILL $(cat /run/xivo-upgrade.lock); fi\n\
                    echo \"$UPGRADE_NODE_ROLE\" >/root/role\n";

/// Two machines at 1.2.1, for which 1.2.2 is published.
struct Pair {
    link: Link,
    passive: World,
    active: World,
}

impl Pair {
    fn boot(debian: Debian) -> Result<Self> {
        let (passive, active) = (upgradable(debian)?, upgradable(debian)?);
        let link = Link::between(&Engine::connect()?, [&passive.machine, &active.machine])?;
        let [of_passive, of_active] = link.addresses()?;
        make_node(&passive, "passive", of_active)?;
        make_node(&active, "active", of_passive)?;
        Ok(Self { link, passive, active })
    }
}

fn make_node(world: &World, role: &str, peer: IpAddr) -> Result<()> {
    world.machine.write_all(&[
        ("/usr/lib/xivo/node", NODE.as_bytes(), 0o755),
        ("/etc/xivo-role", role.as_bytes(), 0o644),
        ("/etc/xivo-peer", peer.to_string().as_bytes(), 0o644),
        ("/etc/systemd/system/xivo-node.socket", SOCKET.as_bytes(), 0o644),
        ("/etc/systemd/system/xivo-node@.service", ANSWER.as_bytes(), 0o644),
        ("/usr/share/xivo-upgrade/pre-upgrade.d/30-told", HOOK.as_bytes(), 0o755),
        ("/tmp-definition", DEFINITION.as_bytes(), 0o644),
    ])?;
    world.machine.sh(&format!(
        "cat /tmp-definition >>{PRODUCT} && rm /tmp-definition && systemctl daemon-reload && systemctl start xivo-node.socket"
    ))?;
    Ok(())
}

/// The screens of several runs, each with the name of its node.
fn together<const N: usize>(runs: [(&str, &World, &Transcript); N]) -> String {
    runs.map(|(node, world, transcript)| format!("{node}\n{}\n{}", "-".repeat(node.len()), world.shown(&[transcript])))
        .join("\n")
}

fn version(world: &World) -> Result<String> {
    world.machine.sh("dpkg-query --show --showformat '${Version}' xivo")
}

fn pair_in_order(debian: Debian) -> Result<String> {
    let Pair { link: _link, passive, active } = Pair::boot(debian)?;
    let too_early = active.upgrade(&["--yes"]).run()?;
    ensure!(too_early.exit == 1 && version(&active)? == "1.2.1", "{too_early}");
    // To look at what would be done is always possible.
    let dry = active.upgrade(&["--dry-run"]).run()?;
    ensure!(dry.exit == 0 && dry.screen.contains("This node: active; the passive one runs 1.2.1"), "{dry}");
    let first = passive.upgrade(&["--yes"]).run()?;
    ensure!(first.exit == 0 && version(&passive)? == "1.2.2", "{first}");
    let status = active.upgrade(&["status"]).run()?;
    let then = active.upgrade(&["--yes"]).run()?;
    ensure!(then.exit == 0 && version(&active)? == "1.2.2", "{then}");
    for (world, told) in
        [(&passive, "pre-upgrade on the passive node\n"), (&active, "pre-upgrade on the active node\n")]
    {
        ensure!(world.machine.sh("cat /root/told")? == told);
    }
    let report = passive.upgrade(&["status", "--json"]).run()?;
    let report: serde_json::Value = serde_json::from_str(&report.screen)?;
    let node = serde_json::json!({"role": "passive", "peer_version": "1.2.2"});
    ensure!(report["node"] == node && report["last_run"]["plan"]["node"]["role"] == "passive", "{report:#}");
    Ok(together([
        ("The active node, too early", &active, &too_early),
        ("The passive node", &passive, &first),
        ("The active node", &active, &status),
        ("The active node", &active, &then),
    ]))
}

fn pair_out_of_order(debian: Debian) -> Result<String> {
    let Pair { link: _link, passive, active } = Pair::boot(debian)?;
    let first = active.upgrade(&["--yes", "--ignore-peer"]).run()?;
    ensure!(first.exit == 0 && version(&active)? == "1.2.2", "{first}");
    let then = passive.upgrade(&["--yes"]).run()?;
    ensure!(then.exit == 0 && version(&passive)? == "1.2.2", "{then}");
    // Of a pair that is apart already, the one that is ahead stays where it is.
    active.machine.sh("rm /etc/systemd/system/xivo-node@.service && printf '[Service]\\nExecStart=echo 1.2.0\\nStandardInput=socket\\n' \
                       >/etc/systemd/system/xivo-node@.service && systemctl daemon-reload")?;
    let mut passive = passive;
    passive.publish(&harness::packages::release::Release::named("1.2.3")?.packages)?;
    let too_far = passive.upgrade(&["--yes"]).run()?;
    ensure!(too_far.exit == 1 && version(&passive)? == "1.2.2", "{too_far}");
    Ok(together([
        ("The active node", &active, &first),
        ("The passive node", &passive, &then),
        ("The passive node, too far", &passive, &too_far),
    ]))
}

fn pair_with_one_node_down(debian: Debian) -> Result<String> {
    let Pair { link: _link, passive, active } = Pair::boot(debian)?;
    active.machine.cut_power()?;
    let alone = passive.upgrade(&["--yes"]).run()?;
    ensure!(alone.exit == 0 && version(&passive)? == "1.2.2", "{alone}");
    // The other way round: what was passive does the work, and the one that is down is the passive one.
    let passive = Pair::boot(debian)?;
    passive.passive.machine.cut_power()?;
    let refused = passive.active.upgrade(&["--yes"]).run()?;
    ensure!(refused.exit == 1 && version(&passive.active)? == "1.2.1", "{refused}");
    let all_the_same = passive.active.upgrade(&["--yes", "--ignore-peer"]).run()?;
    ensure!(all_the_same.exit == 0 && version(&passive.active)? == "1.2.2", "{all_the_same}");
    Ok(together([
        ("The passive node, the active one being down", &active, &alone),
        ("The active node, the passive one being down", &passive.active, &refused),
    ]))
}

fn pair_failover_during_an_upgrade(debian: Debian) -> Result<String> {
    let Pair { link, passive, active } = Pair::boot(debian)?;
    let wait = "#!/bin/sh\ntouch /root/waiting\nuntil test -e /root/go-on; do sleep 0.05; done\n";
    passive.machine.write("/etc/xivo-upgrade/post-upgrade.d/50-wait", wait.as_bytes(), 0o755)?;
    passive.machine.sh("touch /etc/xivo-takes-over")?;
    let (cut, ()) = while_running(
        || passive.upgrade(&["--yes"]).run(),
        || {
            wait_until(&passive, "test -e /root/waiting")?;
            link.cut()?;
            passive.machine.sh("touch /root/go-on").map(drop)
        },
    )?;
    ensure!(cut.exit == 6 && version(&passive)? == "1.2.2", "{cut}");
    let refused = active.upgrade(&["--yes"]).run()?;
    ensure!(refused.exit == 1 && version(&active)? == "1.2.1", "{refused}");
    Ok(together([("The passive node", &passive, &cut), ("The active node, when the link is cut", &active, &refused)]))
}

fn pair_role_unknown(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    // What answers as the other node is this one.
    make_node(&world, "passive", IpAddr::from([127, 0, 0, 1]))?;
    let (mute, speak) = ("chmod -x /usr/lib/xivo/node", "chmod +x /usr/lib/xivo/node");
    world.machine.sh(mute)?;
    let refused = world.upgrade(&["--yes"]).run()?;
    ensure!(refused.exit == 1 && version(&world)? == "1.2.1", "{refused}");
    world.machine.sh(speak)?;
    world.machine.write("/etc/xivo-upgrade/post-upgrade.d/50-kill", KILL.as_bytes(), 0o755)?;
    world.upgrade(&["--yes"]).exits(5)?;
    world.machine.sh(mute)?;
    let completed = world.upgrade(&["--yes"]).run()?;
    ensure!(completed.exit == 6 && version(&world)? == "1.2.2", "{completed}");
    ensure!(world.machine.sh("cat /root/role")? == "passive\n", "a hook was told something else");
    Ok(together([("The node, before", &world, &refused), ("The node, after it was cut short", &world, &completed)]))
}
