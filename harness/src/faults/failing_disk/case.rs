//! A run on a disk that fails, and what becomes of the machine.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::disk_fault::{DiskFault, has_journal, journal_has};
use super::fixture::Fixture;
use crate::at_once::both;
use crate::machines::disk::Disk;
use crate::machines::machine::Machine;
use crate::machines::transcript::Transcript;
use crate::machines::world::World;
use crate::observe::inventory::{Inventory, Section};

/// How often the journal of the run is read.
const WATCHED_EVERY: Duration = Duration::from_millis(1);

/// How long a run may take on a failing disk.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Waits until the unit that resumes a run at boot is done.
const RESUMED: &str =
    "until systemctl show -P ActiveState xivo-upgrade-resume.service | grep -qv activating; do sleep 0.05; done";

/// Makes a service of the new release fail. In memory, so that it is gone when the machine boots again.
const SERVICE_FAILS: &str = "mkdir -p /run/systemd/system/nginx.service.d
    printf '[Service]\\nExecStartPre=/bin/sh -c \"! grep -q 1.2.3 /usr/libexec/nginx\"\\n' >/run/systemd/system/nginx.service.d/fails.conf
    systemctl daemon-reload; sync";

/// What the machine does when its disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskRun {
    Upgrade,
    /// An upgrade in which a service fails, and its rollback.
    FailedUpgrade,
    /// A rollback that the admin asks for.
    Rollback,
}

/// A fault of the disk at an entry of the journal of a run. Without an entry, it is there when the run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) run: DiskRun,
    pub(super) at: Option<&'static str>,
    pub(super) fault: DiskFault,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = match self.run {
            DiskRun::Upgrade => "upgrade",
            DiskRun::FailedUpgrade => "failed upgrade",
            DiskRun::Rollback => "rollback",
        };
        write!(f, "{run}, {}: {}", self.at.unwrap_or("before it"), self.fault)
    }
}

/// What became of a machine.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// The run met the fault.
    pub(super) met: bool,
    /// The exit code of the run whose disk failed.
    pub(super) exit: i64,
    /// `old`, `upgraded`, or what it differs in.
    pub(super) machine: String,
    /// What was said that is not true, or was left out.
    pub(super) wrong: Vec<String>,
    /// What was printed.
    pub(super) transcripts: Vec<String>,
}

impl Case {
    /// Runs it, makes the disk well again, and lets one more run end what was interrupted.
    ///
    /// # Errors
    /// If the run does not end, or the machine does not boot.
    pub(super) fn perform(self, fixture: &Fixture) -> Result<Ended> {
        let world = fixture.world()?;
        let machine = &world.machine;
        let disk = machine.disk().context("the machine has no disk")?;
        match self.run {
            DiskRun::Upgrade => {}
            DiskRun::FailedUpgrade => machine.sh(SERVICE_FAILS).map(drop)?,
            DiskRun::Rollback => {
                world.upgrade(&["--yes"]).exits(0)?;
                machine.sh("sync")?;
            }
        }
        let files = || Inventory::collect(machine, &[Section::Files]);
        let before = self.at.is_none().then(files).transpose()?;
        let ran = self.run_on_failing_disk(&world, disk)?;
        let after = before.as_ref().filter(|_| matches!(ran.exit, 1 | 5)).map(|_| files()).transpose()?;
        let status = world.upgrade(&["status"]).timeout(TIMEOUT).run()?;
        let json = world.upgrade(&["status", "--json"]).timeout(TIMEOUT).run()?;
        let mut ended = Ended { met: self.fault.was_met(disk)?, exit: ran.exit, ..Ended::default() };
        check_run(&ran, &mut ended.wrong);
        let is_refused = !matches!(self.fault, DiskFault::Failing(..));
        if let Some(changed) =
            after.zip(before).filter(|_| is_refused).map(|(after, before)| after.differences(&before))
        {
            ended.wrong.extend(changed.into_iter().map(|line| format!("changed although it was refused: {line}")));
        }
        check_status(&ran, has_journal(disk), &status, &json, &mut ended.wrong);
        ended.transcripts = [&ran, &status].map(ToString::to_string).into();
        let last = if self.fault.needs_no_boot() {
            self.fault.clear(disk)?;
            let last = self.end_run(machine, disk)?;
            machine.sh("sync")?;
            machine.cut_power()?;
            let booted = fixture.boot(&disk.capture()?)?;
            ended.compare(self, fixture, &booted, last.as_ref())?;
            last
        } else {
            machine.cut_power()?;
            let capture = disk.capture()?;
            self.fault.clear(disk)?;
            capture.repair()?;
            let booted = fixture.boot(&capture)?;
            booted.sh(RESUMED)?;
            let last = self.end_run(&booted, booted.disk().context("the machine has no disk")?)?;
            ended.compare(self, fixture, &booted, last.as_ref())?;
            last
        };
        ended.transcripts.extend(last.map(|last| last.to_string()));
        Ok(ended)
    }

    fn run_on_failing_disk(self, world: &World, disk: &Disk) -> Result<Transcript> {
        let arguments = if self.run == DiskRun::Rollback { &["rollback", "--yes"][..] } else { &["--yes"] };
        let Some(entry) = self.at else {
            self.fault.inject(disk)?;
            return world.upgrade(arguments).timeout(TIMEOUT).run();
        };
        let over = AtomicBool::new(false);
        let run = || {
            let result = world.upgrade(arguments).timeout(TIMEOUT).run();
            over.store(true, Ordering::Release);
            result
        };
        let inject = || {
            while !over.load(Ordering::Acquire) {
                if journal_has(disk, entry) {
                    return self.fault.inject(disk);
                }
                std::thread::sleep(WATCHED_EVERY);
            }
            anyhow::bail!("the run has ended without the entry {entry} of its journal")
        };
        let (ran, injected) = both(run, inject);
        let ran = ran?;
        injected.with_context(|| ran.to_string())?;
        Ok(ran)
    }

    /// Lets an admin end the run if it is not over.
    fn end_run(self, machine: &Machine, disk: &Disk) -> Result<Option<Transcript>> {
        let is_over = match self.run {
            DiskRun::Upgrade | DiskRun::FailedUpgrade => !has_journal(disk),
            DiskRun::Rollback => {
                machine.sh("dpkg-query --show --showformat='${Version}' xivo")?.starts_with("1.1") && !has_journal(disk)
            }
        };
        if is_over {
            return Ok(None);
        }
        let arguments: &[&str] = if self.run == DiskRun::Rollback {
            &["xivo-upgrade", "rollback", "--yes"]
        } else {
            &["xivo-upgrade", "--yes"]
        };
        machine.command(arguments).timeout(TIMEOUT).run().map(Some)
    }
}

impl Ended {
    /// Compares the machine with the references, and with what the runs said of it.
    fn compare(&mut self, case: Case, fixture: &Fixture, machine: &Machine, last: Option<&Transcript>) -> Result<()> {
        let (now, references) = (Inventory::collect(machine, &[Section::Files])?, &fixture.references);
        let (to_old, to_upgraded) = (now.differences(&references.old), now.differences(&references.upgraded));
        let (is_old, is_upgraded) = (to_old.is_empty(), to_upgraded.is_empty());
        if is_old || is_upgraded {
            if is_old { "old" } else { "upgraded" }.clone_into(&mut self.machine);
        } else {
            let nearest = if to_old.len() < to_upgraded.len() { ("old", to_old) } else { ("upgraded", to_upgraded) };
            self.machine = format!("neither; {} differences from {}", nearest.1.len(), nearest.0);
            self.wrong.extend(nearest.1.into_iter().take(12));
        }
        let is_undone = case.run == DiskRun::Rollback;
        // The exit code of each run, and of the first one only if no other followed.
        let (first, last) = (self.exit, last.map(|last| last.exit));
        let claimed = last.unwrap_or(first);
        let is_success = if is_undone { is_old } else { is_upgraded };
        let is_true = match claimed {
            0 | 6 => is_success,
            4 => is_old,
            // The unit at boot may have ended the run.
            1 | 5 => last.is_none(),
            _ => false,
        };
        if !is_true {
            self.wrong
                .push(format!("the last run ended with exit code {claimed}, and the machine is: {}", self.machine));
        }
        let promised = match first {
            0 | 6 => is_success,
            4 => is_old,
            _ => true,
        };
        if !promised {
            self.wrong.push(format!("exit code {first} was printed, and the machine is: {}", self.machine));
        }
        if has_journal(machine.disk().context("the machine has no disk")?) {
            self.wrong.push("one run has not ended it: there still is a journal".to_owned());
        }
        Ok(())
    }
}

/// Checks what a run said of itself.
fn check_run(ran: &Transcript, wrong: &mut Vec<String>) {
    if ran.screen.contains("panicked") {
        wrong.push("the run panicked".to_owned());
    }
    if !matches!(ran.exit, 0 | 1 | 4 | 5 | 6) {
        wrong.push(format!("exit code {}", ran.exit));
    }
    // Notes of the preflight checks have a remedy, too.
    let last = ran.screen.rfind("error: ").map_or(ran.screen.as_str(), |at| &ran.screen[at..]);
    if matches!(ran.exit, 1 | 4 | 5) && !last.contains("What to do: ") {
        wrong.push(format!("exit code {} without what to do", ran.exit));
    }
}

/// Checks that `status` says where the machine is.
fn check_status(ran: &Transcript, interrupted: bool, status: &Transcript, json: &Transcript, wrong: &mut Vec<String>) {
    let exit = status.exit;
    if status.screen.contains("panicked") || !matches!(exit, 0 | 6) {
        wrong.push(format!("`status` ended with exit code {exit}"));
    }
    let document = json.screen.find('{').map(|at| &json.screen[at..]).unwrap_or_default();
    if json.exit != exit || serde_json::from_str::<serde_json::Value>(document).is_err() {
        wrong.push(format!("`status --json` ended with exit code {}, or is no JSON: {}", json.exit, json.screen));
    }
    let says = |texts: &[&str]| texts.iter().any(|text| status.screen.contains(text));
    let is_true = match ran.exit {
        0 | 6 => says(&["done", "interrupted"]),
        4 => says(&["rolled back", "interrupted"]),
        5 if interrupted => exit == 6 && says(&["interrupted", "needs a human"]) && says(&["What to do"]),
        // A rollback was refused.
        5 => says(&["done", "needs a human"]),
        _ => true,
    };
    if !is_true {
        wrong.push(format!("after exit code {}, `status` does not say where the machine is", ran.exit));
    }
}
