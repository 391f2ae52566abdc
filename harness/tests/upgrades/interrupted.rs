//! Upgrades whose process is killed.

use anyhow::{Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::upgradable;
use harness::machines::transcript::Transcript;
use harness::machines::world::World;
use harness::observe::inventory::SystemState;
use harness::observe::timeline::{Events, Mark};
use harness::packages::shipped::SERVICES;

use crate::scenario::scenarios;

// A kill while packages change is in `killed_while_packages_change`; kills in the other steps are cells of the matrix.
scenarios! {
    /// An upgrade that is killed in a post-upgrade hook is reported as interrupted; the next start
    /// runs the remaining hooks and restarts, though all packages are upgraded.
    Compared killed_in_a_post_upgrade_hook;
}

/// Sees that the foreground has said what happened, and that nothing of the run holds services back.
fn is_cut_short(world: &World, transcript: &Transcript) -> Result<()> {
    ensure!(transcript.exit == 5, "{transcript}");
    ensure!(transcript.screen.contains("the upgrade was interrupted: its process is gone"), "{transcript}");
    world.machine.sh("policy=/usr/sbin/policy-rc.d; test ! -e $policy || $policy asterisk restart
         flock --nonblock /run/xivo-upgrade.lock true")?;
    Ok(())
}

/// Starts again, at once, and sees that everything is done then.
fn next_start(world: &World, mark: &Mark) -> Result<Transcript> {
    let transcript = world.upgrade(&["--yes"]).exits(0)?;
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.unfinished.is_empty() && state.packages["xivo"] == "1.2.2", "{transcript}");
    ensure!(state.services.values().all(|service| service.version == "1.2.2"), "{state:?}\n{transcript}");
    let happened = Events::since(mark, &world.machine, &SERVICES)?;
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

fn killed_in_a_post_upgrade_hook(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let hook = "#!/bin/sh\nif mkdir /root/killed 2>/dev/null; then kill -KILL $(cat /run/xivo-upgrade.lock); fi\n";
    world.machine.write("/usr/share/xivo-upgrade/post-upgrade.d/15-kill", hook.as_bytes(), 0o755)?;
    let mark = Mark::set(&world.machine)?;
    let cut_short = world.upgrade(&["--yes"]).run()?;
    is_cut_short(&world, &cut_short)?;
    let next = next_start(&world, &mark)?;
    let at = cut_short.screen.find("Running post-upgrade hooks").unwrap_or(0);
    Ok(world.redacted(&format!("…\n{}\n{next}", &cut_short.screen[at..])))
}
