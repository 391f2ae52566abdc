//! Known failures of upgraders in the field, and the scenarios and cells that test for them.

use anyhow::{Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::{HOOK_MARKS, upgradable};
use harness::matrix::scenario::matrix;
use harness::observe::inventory::SystemState;
use harness::packages::repository_fault::{Affected, RepositoryFault, ServerFault};
use harness::packages::shipped::SERVICES;
use libtest_mimic::Failed;

use crate::detached::{wait_until, while_running};
use crate::nothing_changed::snapshot;
use crate::rollback::keep_failed_upgrades;
use crate::scenario::{Scenario, scenarios};

// Scenarios for known failures that no other scenario tests.
scenarios! {
    /// While packages come from a slow mirror, all services run and no hook has run.
    Checked slow_mirror_is_no_outage;
    /// A closed stdin declines the question and causes no loop; Enter alone accepts.
    Checked closed_stdin;
    /// After an upgrade with a service that did not start, nothing prevents a later start of it.
    Checked nothing_stays_disabled;
}

fn slow_mirror_is_no_outage(debian: Debian) -> Result<()> {
    let world = upgradable(debian)?;
    let before = SystemState::of(&world.machine, &SERVICES)?;
    world.inject(RepositoryFault::new(ServerFault::Slow(4000), Affected::Packages))?;
    let (transcript, ()) = while_running(
        || world.upgrade(&["--yes"]).run(),
        || {
            // During the download: some packages are in the cache.
            wait_until(&world, "ls /var/cache/apt/archives/*1.2.2*.deb 2>/dev/null | grep -q .")?;
            world
                .machine
                .sh(&format!("pgrep -x http >/dev/null; test ! -e {HOOK_MARKS} -a ! -e /usr/sbin/policy-rc.d"))?;
            ensure!(SystemState::of(&world.machine, &SERVICES)? == before, "something changed during the download");
            world.machine.sh("pgrep -x http >/dev/null").map(drop)
        },
    )?;
    ensure!(transcript.exit == 0, "{transcript}");
    Ok(())
}

fn closed_stdin(debian: Debian) -> Result<()> {
    let world = upgradable(debian)?;
    let before = snapshot(&world)?;
    let closed = world.machine.command(&["timeout", "60", "sh", "-c", "exec xivo-upgrade <&-"]).run()?;
    ensure!(closed.exit == 3 && snapshot(&world)? == before, "{closed}");
    // Without stdin, stdout and stderr, --download-only works.
    let silent = world.machine.command(&["timeout", "60", "sh", "-c", "exec xivo-upgrade -d <&- >&- 2>&-"]).run()?;
    ensure!(silent.exit == 0 && silent.screen.is_empty(), "{silent}");
    let entered = world.upgrade(&[]).answer("[Y/n] ", "\n").exits(0)?;
    ensure!(SystemState::of(&world.machine, &SERVICES)?.packages["xivo"] == "1.2.2", "{entered}");
    Ok(())
}

fn nothing_stays_disabled(debian: Debian) -> Result<()> {
    let world = upgradable(debian)?;
    let settings = || world.machine.sh("systemctl list-unit-files --no-legend --type=service | grep -v ' transient '");
    let before = settings()?;
    keep_failed_upgrades(&world)?;
    let broken = "/etc/systemd/system/xivo-agid.service.d/broken.conf";
    world.machine.write(broken, b"[Service]\nExecStart=\nExecStart=/bin/false\n", 0o644)?;
    let transcript = world.upgrade(&["--yes"]).exits(5)?;
    ensure!(settings()? == before, "units were enabled or disabled: {transcript}");
    // After the repair its package may start it again.
    world.machine.sh(&format!(
        "test ! -e /usr/sbin/policy-rc.d; rm {broken}; systemctl daemon-reload
         apt-get -qq -y install --reinstall xivo-agid 2>&1"
    ))?;
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.services.values().all(|service| service.version == "1.2.2"), "{state:?}");
    Ok(())
}

/// Known failures of upgraders in the field, one per line, each with the scenarios and the cells of the matrix (`FAULT@STEP`) that
/// show that this upgrader does not fail like that.
const FIELD_NOTES: &str = "\
the exit code was that of the logger: source_not_found failing_maintainer_script hook-fails@post-upgrade-hooks json
lists that could not be read were ignored: source_not_found
a slow mirror was an outage: slow_mirror_is_no_outage
dpkg or a package asked a question, and no admin was there: packages_cannot_ask conffiles_replaced arguments_survive_the_self_update
--download-only upgraded, its argument lost: arguments_survive_the_self_update
the version shown was blank: versions_are_opaque
an empty answer or a closed stdin broke the question: closed_stdin declined
things were changed before the confirmation: declined ctrl_c_before_the_work dry_run
post-upgrade hooks ran though the packages had failed: failing_maintainer_script
hooks were skipped or failed without a message: faulty_hooks bad_input failing_pre_upgrade_hook
hooks marked themselves as done, or lost that mark: killed_in_a_post_upgrade_hook faulty_hooks
what was disabled for the upgrade stayed disabled after a failed start: nothing_stays_disabled killed_while_packages_change own_policy
a unit that failed kept those after it down: service-does-not-start@restart
a service was reported as up before it was ready: stop_then_start
another process held the dpkg lock: dpkg_lock_held
the disk check measured the wrong filesystem: all_preflight_findings
the solver removed the product: protected_package
--download-only left the sources changed: download_only
an interrupted run could not be resumed: killed@download killed@pre-upgrade-hooks killed_while_packages_change killed_in_a_post_upgrade_hook killed@restart failing_migration
the terminal was lost during the upgrade: terminal_lost foreground_killed without_systemd_run ctrl_c_detaches
monitoring restarted services during the upgrade: all_preflight_findings
the old library stayed in use, or ssh hit the start limit: replaced_library
held packages made the run look complete: held_product held_upgrader
a mail said failure in its subject and success in its body: status_and_history report_of_a_failure
hooks failed on the passive node of a pair: hooks_of_other_nodes
";

/// Each known failure has a test, and each scenario or cell that it names exists.
pub(crate) fn known_failures_are_tested(scenarios: &[Scenario]) -> Result<(), Failed> {
    let cells = matrix().map_err(|error| format!("{error:#}"))?;
    let exists = |name: &str| {
        scenarios.iter().any(|scenario| scenario.name == name)
            || name.contains('@') && cells.iter().any(|cell| cell.name().contains(name))
    };
    let mut wrong = Vec::new();
    if FIELD_NOTES.lines().count() != 25 {
        wrong.push("the list has 25 lines".to_owned());
    }
    for (line, number) in FIELD_NOTES.lines().zip(1..) {
        let (failure, tests) = line.split_once(": ").ok_or_else(|| format!("{number}, {line}: no scenario"))?;
        let unknown = tests.split(' ').filter(|name| !exists(name));
        wrong.extend(unknown.map(|name| format!("{number}, {failure}: there is no scenario and no cell {name:?}")));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
