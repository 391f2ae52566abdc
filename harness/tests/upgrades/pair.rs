//! Upgrades of an active-passive pair.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use harness::machines::engine::Engine;
use harness::machines::image::Debian;
use harness::machines::link::Link;
use harness::machines::product_machine::upgradable;
use harness::machines::transcript::Transcript;
use harness::machines::world::World;
use harness::packages::shipped::definition::PRODUCT;

use crate::detached::while_running;
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

/// The pair in the vendor's product.toml.
const DEFINITION: &str =
    "[pair]\nrole = [\"/usr/lib/xivo/node\", \"role\"]\npeer-version = [\"/usr/lib/xivo/node\", \"peer\"]\n";

/// A program of products that come in pairs: each node sends its version to the other, and a passive node without an answer of the active
/// one takes over if /etc/xivo-takes-over exists.
const NODE: &str = r#"#!/bin/bash
ask() { timeout 2 bash -c "exec 3<>/dev/tcp/$(cat /etc/xivo-peer)/7070 && cat <&3" 2>/dev/null || { echo "the other node does not answer"; return 1; }; }
case $1 in
version) exec dpkg-query --show --showformat '${Version}\n' xivo ;;
peer) ask ;;
role)
    if [ -e /etc/xivo-takes-over ] && ! ask >/dev/null; then echo active; else cat /etc/xivo-role; fi
    ;;
esac
"#;

/// The socket to which the other node connects.
const SOCKET: &str = "[Socket]\nListenStream=7070\nAccept=yes\n";
const ANSWER: &str = "[Service]\nExecStart=/usr/lib/xivo/node version\nStandardInput=socket\n";

/// A hook that logs the role of its node.
const HOOK: &str = "#!/bin/sh\necho \"$UPGRADE_PHASE on the $UPGRADE_NODE_ROLE node\" >>/root/hook-role\n";

/// A hook that kills the worker the first time, and then logs the role of its node.
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
        ("/usr/share/xivo-upgrade/pre-upgrade.d/30-role", HOOK.as_bytes(), 0o755),
        ("/tmp-definition", DEFINITION.as_bytes(), 0o644),
    ])?;
    let start = "rm /tmp-definition && systemctl daemon-reload && systemctl start xivo-node.socket";
    world.machine.sh(&format!("cat /tmp-definition >>{PRODUCT} && {start}")).map(drop)
}

/// The screens of several runs, each with the name of its node.
fn together<const N: usize>(runs: [(&str, &World, &Transcript); N]) -> String {
    runs.map(|(node, world, transcript)| format!("{node}\n{}\n{}", "-".repeat(node.len()), world.shown(&[transcript])))
        .join("\n")
}

/// Runs the upgrader, which has to end with this exit code and leave the machine at this version.
fn upgrade(world: &World, arguments: &[&str], exit: i64, expected: &str) -> Result<Transcript> {
    let transcript = world.upgrade(arguments).exits(exit)?;
    ensure!(world.machine.version("xivo")? == expected, "{transcript}");
    Ok(transcript)
}

fn pair_in_order(debian: Debian) -> Result<String> {
    let Pair { link: _link, passive, active } = Pair::boot(debian)?;
    let too_early = upgrade(&active, &["--yes"], 1, "1.2.1")?;
    // A dry run is always possible.
    let dry = active.upgrade(&["--dry-run"]).run()?;
    ensure!(dry.exit == 0 && dry.screen.contains("This node: active; the passive one runs 1.2.1"), "{dry}");
    let first = upgrade(&passive, &["--yes"], 0, "1.2.2")?;
    let status = active.upgrade(&["status"]).run()?;
    let then = upgrade(&active, &["--yes"], 0, "1.2.2")?;
    for (world, role) in [(&passive, "passive"), (&active, "active")] {
        ensure!(world.machine.sh("cat /root/hook-role")? == format!("pre-upgrade on the {role} node\n"));
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
    let first = upgrade(&active, &["--yes", "--ignore-peer"], 0, "1.2.2")?;
    let then = upgrade(&passive, &["--yes"], 0, "1.2.2")?;
    // In a pair with different versions the node that is ahead is not upgraded.
    active.machine.sh("rm /etc/systemd/system/xivo-node@.service && printf '[Service]\\nExecStart=echo 1.2.0\\nStandardInput=socket\\n' \
                       >/etc/systemd/system/xivo-node@.service && systemctl daemon-reload")?;
    let mut passive = passive;
    passive.publish(&harness::packages::release::Release::named("1.2.3")?.packages)?;
    let too_far = upgrade(&passive, &["--yes"], 1, "1.2.2")?;
    Ok(together([
        ("The active node", &active, &first),
        ("The passive node", &passive, &then),
        ("The passive node, too far", &passive, &too_far),
    ]))
}

fn pair_with_one_node_down(debian: Debian) -> Result<String> {
    let Pair { link: _link, passive, active } = Pair::boot(debian)?;
    active.machine.cut_power()?;
    let alone = upgrade(&passive, &["--yes"], 0, "1.2.2")?;
    // The passive node is down, and the active one is upgraded.
    let passive = Pair::boot(debian)?;
    passive.passive.machine.cut_power()?;
    let refused = upgrade(&passive.active, &["--yes"], 1, "1.2.1")?;
    upgrade(&passive.active, &["--yes", "--ignore-peer"], 0, "1.2.2")?;
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
            passive.machine.wait_until("test -e /root/waiting")?;
            link.cut()?;
            passive.machine.sh("touch /root/go-on").map(drop)
        },
    )?;
    ensure!(cut.exit == 6 && passive.machine.version("xivo")? == "1.2.2", "{cut}");
    let refused = upgrade(&active, &["--yes"], 1, "1.2.1")?;
    Ok(together([("The passive node", &passive, &cut), ("The active node, when the link is cut", &active, &refused)]))
}

fn pair_role_unknown(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    // This node also answers as the other one.
    make_node(&world, "passive", IpAddr::from([127, 0, 0, 1]))?;
    let (disable, enable) = ("chmod -x /usr/lib/xivo/node", "chmod +x /usr/lib/xivo/node");
    world.machine.sh(disable)?;
    let refused = upgrade(&world, &["--yes"], 1, "1.2.1")?;
    world.machine.sh(enable)?;
    world.machine.write("/etc/xivo-upgrade/post-upgrade.d/50-kill", KILL.as_bytes(), 0o755)?;
    world.upgrade(&["--yes"]).exits(5)?;
    world.machine.sh(disable)?;
    let completed = upgrade(&world, &["--yes"], 6, "1.2.2")?;
    ensure!(world.machine.sh("cat /root/role")? == "passive\n", "a hook got another role");
    Ok(together([("The node, before", &world, &refused), ("The node, after the interruption", &world, &completed)]))
}
