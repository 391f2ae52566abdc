//! Known failures of upgraders in the field, and the scenarios and cells that test for them.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use harness::data;
use harness::machines::image::Debian;
use harness::machines::product_machine::{HOOK_MARKS, upgradable};
use harness::matrix::scenario::matrix;
use harness::observe::inventory::SystemState;
use harness::packages::repository_fault::{Affected, RepositoryFault, ServerFault};
use harness::packages::shipped::SERVICES;
use libtest_mimic::Failed;

use crate::detached::while_running;
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
            world.machine.wait_until("ls /var/cache/apt/archives/*1.2.2*.deb 2>/dev/null | grep -q .")?;
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

/// Known failures, and what shows that this upgrader does not fail like that.
const FIELD_NOTES: &str = "harness/tests/upgrades/known-failures.toml";

/// Each known failure has a test, and each scenario or cell that it names exists.
pub(crate) fn known_failures_are_tested(scenarios: &[Scenario]) -> Result<(), Failed> {
    let cells = matrix().map_err(|error| format!("{error:#}"))?;
    let exists = |name: &str| {
        scenarios.iter().any(|scenario| scenario.name == name)
            || name.contains('@') && cells.iter().any(|cell| cell.name().contains(name))
    };
    let failures: BTreeMap<String, Vec<String>> = data::read(&data::tree(FIELD_NOTES))?;
    let mut wrong = Vec::new();
    if failures.len() != 25 {
        wrong.push("the list has 25 failures".to_owned());
    }
    for (failure, tests) in &failures {
        if tests.is_empty() {
            wrong.push(format!("{failure}: no scenario"));
        }
        let unknown = tests.iter().filter(|name| !exists(name));
        wrong.extend(unknown.map(|name| format!("{failure}: there is no scenario and no cell {name:?}")));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
