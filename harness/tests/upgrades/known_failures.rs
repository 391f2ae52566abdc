//! Known failures of upgraders in the field, and the scenarios and cells that test for them.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::{HOOK_MARKS, upgradable};
use harness::matrix::scenario::matrix;
use harness::observe::inventory::SystemState;
use harness::packages::repository_fault::{Affected, RepositoryFault, ServerFault};
use harness::packages::shipped::SERVICES;
use libtest_mimic::Failed;

use crate::detached::{wait_until, while_running};
use crate::nothing_changed::portrait;
use crate::rollback::undo_nothing;
use crate::scenario::{Scenario, checked};

/// Stories that are told for the sake of one line alone.
pub(crate) const SCENARIOS: &[Scenario] = &[
    checked!(slow_mirror_is_no_outage, "While packages come from a slow mirror, all services run and no hook has run."),
    checked!(closed_stdin, "A closed stdin declines the question and causes no loop; Enter alone accepts."),
    checked!(
        nothing_stays_disabled,
        "After an upgrade with a service that did not start, nothing prevents a later start of it."
    ),
];

fn slow_mirror_is_no_outage(debian: Debian) -> Result<()> {
    let world = upgradable(debian)?;
    let before = SystemState::of(&world.machine, &SERVICES)?;
    world.inject(RepositoryFault::new(ServerFault::Slow(4000), Affected::Packages))?;
    let (transcript, ()) = while_running(
        || world.upgrade(&["--yes"]).run(),
        || {
            // In the middle of it: some packages are here.
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
    let before = portrait(&world)?;
    let closed = world.machine.command(&["timeout", "60", "sh", "-c", "exec xivo-upgrade <&-"]).run()?;
    ensure!(closed.exit == 3 && portrait(&world)? == before, "{closed}");
    // Nobody there in any way, and yet it has been told to.
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
    undo_nothing(&world)?;
    let broken = "/etc/systemd/system/xivo-agid.service.d/broken.conf";
    world.machine.write(broken, b"[Service]\nExecStart=\nExecStart=/bin/false\n", 0o644)?;
    let transcript = world.upgrade(&["--yes"]).exits(5)?;
    ensure!(settings()? == before, "units are switched off or on: {transcript}");
    // The admin mends it, and its package may start it again.
    world.machine.sh(&format!(
        "test ! -e /usr/sbin/policy-rc.d; rm {broken}; systemctl daemon-reload
         apt-get -qq -y install --reinstall xivo-agid 2>&1"
    ))?;
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.services.values().all(|service| service.version == "1.2.2"), "{state:?}");
    Ok(())
}

/// How many lines the list of what goes wrong with upgraders in the field has.
const LINES: u32 = 25;

/// What goes wrong with upgraders in the field, a line each, and the stories or cells of the matrix that show that it does not here.
struct Line {
    number: u32,
    what: &'static str,
    answer: &'static [&'static str],
}

const FIELD_NOTES: [Line; LINES as usize] = [
    Line {
        number: 1,
        what: "the exit code was that of the logger",
        answer: &["source_not_found", "failing_maintainer_script", "hook-fails@post-upgrade-hooks", "json"],
    },
    Line { number: 2, what: "lists that could not be read were ignored", answer: &["source_not_found"] },
    Line { number: 3, what: "a slow mirror was an outage", answer: &["slow_mirror_is_no_outage"] },
    Line {
        number: 4,
        what: "dpkg or a package asked, and nobody was there",
        answer: &["packages_cannot_ask", "conffiles_replaced", "arguments_survive_the_self_update"],
    },
    Line {
        number: 5,
        what: "--download-only upgraded, its argument lost",
        answer: &["arguments_survive_the_self_update"],
    },
    Line { number: 6, what: "the version shown was blank", answer: &["versions_are_opaque"] },
    Line {
        number: 7,
        what: "an empty answer or a closed stdin broke the question",
        answer: &["closed_stdin", "declined"],
    },
    Line {
        number: 8,
        what: "things were changed before the confirmation",
        answer: &["declined", "ctrl_c_before_the_work", "dry_run"],
    },
    Line {
        number: 9,
        what: "post-upgrade hooks ran though the packages had failed",
        answer: &["failing_maintainer_script"],
    },
    Line {
        number: 10,
        what: "hooks were skipped or failed unseen",
        answer: &["faulty_hooks", "bad_input", "failing_pre_upgrade_hook"],
    },
    Line {
        number: 11,
        what: "hooks marked themselves as done, or lost that mark",
        answer: &["killed_in_a_post_upgrade_hook", "faulty_hooks"],
    },
    Line {
        number: 12,
        what: "what was switched off for the upgrade stayed so after a failed start",
        answer: &["nothing_stays_disabled", "killed_while_packages_change", "own_policy"],
    },
    Line {
        number: 13,
        what: "a unit that failed kept those after it down",
        answer: &["service-does-not-start@restart"],
    },
    Line { number: 14, what: "a service was called up before it was ready", answer: &["stop_then_start"] },
    Line { number: 15, what: "somebody else held dpkg's lock", answer: &["dpkg_lock_held"] },
    Line { number: 16, what: "the disk check looked at the wrong thing", answer: &["all_preflight_findings"] },
    Line { number: 17, what: "the solver removed the product", answer: &["protected_package"] },
    Line { number: 18, what: "--download-only left sources changed", answer: &["download_only"] },
    Line {
        number: 19,
        what: "an interrupted run could not be taken up again",
        answer: &[
            "killed@download",
            "killed@pre-upgrade-hooks",
            "killed_while_packages_change",
            "killed_in_a_post_upgrade_hook",
            "killed@restart",
            "failing_migration",
        ],
    },
    Line {
        number: 20,
        what: "the terminal was lost in the middle",
        answer: &["terminal_lost", "foreground_killed", "without_systemd_run", "ctrl_c_detaches"],
    },
    Line { number: 21, what: "monitoring restarted services in the middle", answer: &["all_preflight_findings"] },
    Line {
        number: 22,
        what: "the old library went on running, or ssh hit the start limit",
        answer: &["replaced_library"],
    },
    Line { number: 23, what: "held packages made the run look done", answer: &["held_product", "held_upgrader"] },
    Line {
        number: 24,
        what: "a mail said failure in its subject and success in its body",
        answer: &["status_and_history", "report_of_a_failure"],
    },
    Line { number: 25, what: "hooks failed on the passive node of a pair", answer: &["hooks_of_other_nodes"] },
];

/// Each line has an answer, and each story or cell (`FAULT@STEP`) that it names exists.
pub(crate) fn known_failures_are_tested(scenarios: &[Scenario]) -> Result<(), Failed> {
    let numbers: BTreeSet<u32> = FIELD_NOTES.iter().map(|line| line.number).collect();
    if !numbers.into_iter().eq(1..=LINES) {
        return Err("each number has to be there once".into());
    }
    let cells = matrix().map_err(|error| format!("{error:#}"))?;
    let cell = |name: &str| name.contains('@') && cells.iter().any(|cell| cell.name().contains(name));
    let mut wrong = Vec::new();
    for Line { number, what, answer } in FIELD_NOTES {
        if answer.is_empty() {
            wrong.push(format!("{number}, {what}: no scenario"));
        }
        for name in answer {
            if !cell(name) && !scenarios.iter().any(|scenario| scenario.name == *name) {
                wrong.push(format!("{number}, {what}: there is no scenario and no cell {name}"));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
