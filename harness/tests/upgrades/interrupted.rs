//! Upgrades whose process is killed.

use anyhow::{Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::upgradable;
use harness::observe::timeline::{Events, Mark};
use harness::packages::shipped::SERVICES;

use crate::database::nothing_to_upgrade;
use crate::rollback::is_at;
use crate::scenario::scenarios;

// A kill while packages change is in `killed_while_packages_change`; kills in the other steps are cells of the matrix.
scenarios! {
    /// An upgrade that is killed in a post-upgrade hook is reported as interrupted; the next start
    /// runs the remaining hooks and restarts, though all packages are upgraded.
    Compared killed_in_a_post_upgrade_hook;
}

fn killed_in_a_post_upgrade_hook(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let hook = "#!/bin/sh\nif mkdir /root/killed 2>/dev/null; then kill -KILL $(cat /run/xivo-upgrade.lock); fi\n";
    world.machine.write("/usr/share/xivo-upgrade/post-upgrade.d/15-kill", hook.as_bytes(), 0o755)?;
    let mark = Mark::set(&world.machine)?;
    let interrupted = world.upgrade(&["--yes"]).exits(5)?;
    ensure!(interrupted.screen.contains("the upgrade was interrupted: its process is gone"), "{interrupted}");
    // No policy-rc.d blocks services.
    world.machine.sh("policy=/usr/sbin/policy-rc.d; test ! -e $policy || $policy asterisk restart
         flock --nonblock /run/xivo-upgrade.lock true")?;

    // The next start, at once, completes the upgrade.
    let next = world.upgrade(&["--yes"]).exits(0)?;
    is_at(&world, "1.2.2")?;
    let happened = Events::since(&mark, &world.machine, &SERVICES)?;
    ensure!(happened.restart_order() == SERVICES, "{happened}");
    for hook in ["10-first.sh", "20-second"] {
        // With the version from which the machine was really upgraded.
        let mark = format!("post-upgrade {hook} (1.2.1 -> 1.2.2)");
        ensure!(happened.hooks.contains(&mark), "no {mark}: {happened}");
    }
    world.machine.sh("! systemctl --failed --no-legend | grep .")?;
    nothing_to_upgrade(&world)?;
    let at = interrupted.screen.find("Running post-upgrade hooks").unwrap_or(0);
    Ok(world.redacted(&format!("…\n{}\n{next}", &interrupted.screen[at..])))
}
