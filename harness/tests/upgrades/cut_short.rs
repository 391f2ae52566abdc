use anyhow::{Result, ensure};
use harness::appliance::upgradable;
use harness::image::Debian;
use harness::observation::{Happened, Mark, SystemState};
use harness::server::fault::{Affected, Fault, RepositoryFault};
use harness::shipped::SERVICES;
use harness::transcript::Transcript;
use harness::world::World;

use crate::attended::{wait_until, while_running};
use crate::story::Story;

/// Every story of this file. The one in which packages change is `killed_in_the_middle`.
pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "killed_while_downloading",
        promise: "An upgrade whose process is killed while it downloads says so, and the next start does it all.",
        tell: killed_while_downloading,
        has_snapshot: false,
    },
    Story {
        name: "killed_in_a_pre_upgrade_hook",
        promise: "An upgrade whose process is killed in a pre-upgrade hook says so, and the next start does it all.",
        tell: killed_in_a_pre_upgrade_hook,
        has_snapshot: false,
    },
    Story {
        name: "killed_in_a_post_upgrade_hook",
        promise: "An upgrade whose process is killed in a post-upgrade hook says so; the next start knows that hooks and services \
                  have not had their turn, though every package is there.",
        tell: killed_in_a_post_upgrade_hook,
        has_snapshot: true,
    },
    Story {
        name: "killed_while_restarting",
        promise: "An upgrade whose process is killed while services restart says so, and the next start restarts them all.",
        tell: killed_while_restarting,
        has_snapshot: false,
    },
];

/// Kills the process that works, the first time it is run.
const KILL: &str = "if mkdir /root/killed 2>/dev/null; then kill -KILL $(cat /run/xivo-upgrade.lock); fi";

/// Sees that the foreground has said what happened, and that nothing of the run holds services back.
fn cut_short(world: &World, transcript: &Transcript) -> Result<()> {
    ensure!(transcript.exit == 5, "{transcript}");
    ensure!(transcript.screen.contains("the process that did it is gone"), "{transcript}");
    world.machine.sh("policy=/usr/sbin/policy-rc.d; test ! -e $policy || $policy asterisk restart
         flock --nonblock /run/xivo-upgrade.lock true")?;
    Ok(())
}

/// Starts again, at once, and sees that everything is done then.
fn next_start(world: &World, mark: &Mark) -> Result<Transcript> {
    let transcript = world.upgrade(&["--yes"]).run()?;
    ensure!(transcript.exit == 0, "{transcript}");
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.unfinished.is_empty() && state.packages["xivo"] == "1.2.2", "{transcript}");
    ensure!(state.services.values().all(|service| service.version == "1.2.2"), "{state:?}\n{transcript}");
    let happened = Happened::since(mark, &world.machine, &SERVICES)?;
    ensure!(happened.restart_order() == SERVICES, "{happened}");
    for hook in ["10-first.sh", "20-second"] {
        // Told of the version that the machine really comes from.
        let mark = format!("post-upgrade {hook} (1.2.1 -> 1.2.2)");
        ensure!(happened.hooks.contains(&mark), "no {mark}: {happened}");
    }
    world.machine.sh("test ! -e /usr/sbin/policy-rc.d; systemctl --failed --no-legend | grep . && exit 1 || :")?;
    let again = world.upgrade(&["--yes"]).run()?;
    ensure!(again.exit == 0 && again.screen.contains("Nothing to upgrade"), "{again}");
    Ok(transcript)
}

fn killed_in_a_hook(debian: Debian, phase: &str) -> Result<(Transcript, Transcript)> {
    let world = upgradable(debian)?;
    let hook = format!("#!/bin/sh\n{KILL}\n");
    world.machine.write(&format!("/usr/share/xivo-upgrade/{phase}.d/15-kill"), hook.as_bytes(), 0o755)?;
    let mark = Mark::set(&world.machine)?;
    let transcript = world.upgrade(&["--yes"]).run()?;
    cut_short(&world, &transcript)?;
    Ok((transcript, next_start(&world, &mark)?))
}

fn killed_while_downloading(debian: Debian) -> Result<Option<String>> {
    let world = upgradable(debian)?;
    let mark = Mark::set(&world.machine)?;
    world.misbehave(RepositoryFault::new(Fault::Slow(3000), Affected::Packages))?;
    let (transcript, ()) = while_running(
        || world.upgrade(&["--yes"]).run(),
        || {
            wait_until(
                &world,
                "grep -qs \"step download began\" /var/log/xivo-upgrade.log && pgrep -x http >/dev/null",
            )?;
            world.machine.sh("kill -KILL $(cat /run/xivo-upgrade.lock)").map(drop)
        },
    )?;
    cut_short(&world, &transcript)?;
    world.behave()?;
    next_start(&world, &mark)?;
    Ok(None)
}

fn killed_in_a_pre_upgrade_hook(debian: Debian) -> Result<Option<String>> {
    killed_in_a_hook(debian, "pre-upgrade").map(|_| None)
}

fn killed_in_a_post_upgrade_hook(debian: Debian) -> Result<Option<String>> {
    let (cut_short, next) = killed_in_a_hook(debian, "post-upgrade")?;
    let at = cut_short.screen.find("Running post-upgrade hooks").unwrap_or(0);
    Ok(Some(format!("…\n{}\n{next}", &cut_short.screen[at..])))
}

fn killed_while_restarting(debian: Debian) -> Result<Option<String>> {
    let world = upgradable(debian)?;
    // The service comes up all the same.
    let kill = format!("[Service]\nExecStartPre=/bin/sh -c '{}'\n", KILL.replace('$', "$$"));
    world.machine.write("/etc/systemd/system/xivo-agid.service.d/kill.conf", kill.as_bytes(), 0o644)?;
    world.machine.sh("systemctl daemon-reload")?;
    let mark = Mark::set(&world.machine)?;
    let transcript = world.upgrade(&["--yes"]).run()?;
    cut_short(&world, &transcript)?;
    next_start(&world, &mark)?;
    Ok(None)
}
