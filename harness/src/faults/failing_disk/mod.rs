//! Failing disks: an upgrade or a rollback runs on a disk that fails, is full, or becomes read-only. The run ends by itself, says where the
//! machine is, and one more run ends what was interrupted once the disk is well again.

mod case;
mod disk_fault;
mod fixture;

use std::io::Write;

use anyhow::{Result, ensure};
use serde::Serialize;

use self::case::{Case, DiskRun, Ended};
use self::disk_fault::DiskFault;
use self::fixture::Fixture;
use crate::at_once::each;
use crate::data;
use crate::machines::backing_file::DiskFailure;
use crate::packages::binaries;

/// Which cases run.
#[derive(Debug, Clone, clap::Args)]
pub struct FailingDiskOptions {
    /// Only those that have this in their names
    part: Option<String>,
    /// How many machines run at once
    #[arg(long, value_name = "N", default_value_t = 3)]
    jobs: usize,
}

/// What came of it: `target/failing-disks/results.json`.
#[derive(Debug, Default, Serialize)]
struct Results {
    total: usize,
    /// How many runs met the fault; the others had ended before.
    met: usize,
    wrong: usize,
    /// How many machines were the upgraded one in the end, and how many the old one.
    upgraded: usize,
    old: usize,
    cases: Vec<CaseResult>,
}

#[derive(Debug, Serialize)]
struct CaseResult {
    name: String,
    met: bool,
    exit: i64,
    machine: String,
    wrong: Vec<String>,
    transcripts: Vec<String>,
}

/// The entries of an upgrade's journal at which its disk fails.
const OF_UPGRADE: [&str; 7] = [
    "step-began download",
    "step-began save-rollback-data",
    "step-began pre-upgrade-hooks",
    "step-began packages",
    "step-began post-upgrade-hooks",
    "step-began restart",
    "step-began verify",
];

/// Those of a rollback.
const OF_ROLLBACK: [&str; 3] = ["step-began roll-back", "step-began restart-old", "step-began verify-old"];

/// After how many writes a disk fails.
const WRITES: [u64; 3] = [0, 6, 60];

/// How many bytes a full disk has left.
const LEFT: [u64; 3] = [0, 200 * 1024, 2 * 1024 * 1024];

/// All cases.
fn cases() -> Vec<Case> {
    let failing = [DiskFailure::Io, DiskFailure::NoSpace]
        .into_iter()
        .flat_map(|how| WRITES.map(|writes| DiskFault::Failing(how, writes)));
    let faults: Vec<DiskFault> = failing.chain(LEFT.map(DiskFault::Full)).chain([DiskFault::ReadOnly]).collect();
    let upgrade = OF_UPGRADE.map(|at| (DiskRun::Upgrade, Some(at)));
    let failed = OF_ROLLBACK.map(|at| (DiskRun::FailedUpgrade, Some(at)));
    let rollback = OF_ROLLBACK.map(|at| (DiskRun::Rollback, Some(at)));
    let before = [DiskRun::Upgrade, DiskRun::Rollback].map(|run| (run, None));
    let moments = before.into_iter().chain(upgrade).chain(failed).chain(rollback);
    let case = |(run, at)| faults.iter().map(move |fault| Case { run, at, fault: *fault });
    moments.flat_map(case).collect()
}

/// A case that every run of the tests has.
#[derive(Debug, Clone, Copy)]
pub struct Chosen(Case);

impl Chosen {
    /// All of them, with the names of their tests.
    pub const ALL: [(&'static str, Self); 5] = [
        ("a_disk_that_fails_while_packages_change_leaves_a_machine_that_one_run_completes", Self(CHOSEN[0])),
        ("a_disk_that_fills_while_packages_change_leaves_a_machine_that_one_run_completes", Self(CHOSEN[1])),
        ("a_disk_that_becomes_read_only_before_a_restart_is_reported_with_what_to_do", Self(CHOSEN[2])),
        ("a_rollback_on_a_read_only_disk_is_refused_before_it_changes_anything", Self(CHOSEN[3])),
        ("a_rollback_on_a_full_disk_is_refused_before_it_changes_anything", Self(CHOSEN[4])),
    ];

    /// Runs it.
    ///
    /// # Errors
    /// If something was wrong, or this host cannot make disks.
    pub fn check(self) -> Result<()> {
        let ended = self.0.perform(&Fixture::make()?)?;
        ensure!(ended.met, "the run had ended before the fault: {}", ended.transcripts.join("\n"));
        ensure!(ended.wrong.is_empty(), "{}:\n{}\n{}", self.0, ended.wrong.join("\n"), ended.transcripts.join("\n"));
        Ok(())
    }
}

const CHOSEN: [Case; 5] = [
    Case { run: DiskRun::Upgrade, at: Some("step-began packages"), fault: DiskFault::Failing(DiskFailure::Io, 6) },
    Case { run: DiskRun::Upgrade, at: Some("step-began packages"), fault: DiskFault::Full(LEFT[2]) },
    Case { run: DiskRun::Upgrade, at: Some("step-began restart"), fault: DiskFault::ReadOnly },
    Case { run: DiskRun::Rollback, at: None, fault: DiskFault::ReadOnly },
    Case { run: DiskRun::Rollback, at: None, fault: DiskFault::Full(0) },
];

/// Runs the cases, and writes the results.
///
/// # Errors
/// If something was wrong in one, after all ran; or if this host cannot make disks.
pub fn run(options: &FailingDiskOptions, out: &mut dyn Write) -> Result<()> {
    let part = options.part.as_deref().unwrap_or_default();
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.to_string().contains(part)).collect();
    ensure!(!cases.is_empty(), "no case has {part} in its name");
    let fixture = Fixture::make()?;
    let mut results = Results::default();
    each(
        cases,
        options.jobs.max(1),
        |case| case.perform(&fixture),
        |case, ended, seconds| {
            let ended = ended.unwrap_or_else(|error| Ended { wrong: vec![format!("{error:#}")], ..Ended::default() });
            results.add(case, ended);
            // After each, so that an interrupted run has results, too.
            data::write(
                &binaries::target().join("failing-disks/results.json"),
                serde_json::to_string_pretty(&results)?,
            )?;
            let Some(CaseResult { name, met, exit, machine, wrong, .. }) = results.cases.last() else { return Ok(()) };
            let met = if *met { "" } else { " (not met)" };
            writeln!(out, "{:>4}  {name:<66} {seconds:>3} s  exit code {exit}, {machine}{met}", results.total)?;
            wrong.iter().try_for_each(|line| writeln!(out, "        {line}"))?;
            Ok(())
        },
    )?;
    let Results { total, met, upgraded, old, wrong, .. } = results;
    writeln!(
        out,
        "{total} cases, {met} with a fault that was met: {upgraded} machines upgraded, {old} old; {wrong} wrong"
    )?;
    ensure!(wrong == 0, "{wrong} of {total} cases are wrong");
    Ok(())
}

impl Results {
    fn add(&mut self, case: Case, ended: Ended) {
        let Ended { met, exit, machine, wrong, transcripts } = ended;
        self.total += 1;
        self.met += usize::from(met);
        self.wrong += usize::from(!wrong.is_empty());
        self.upgraded += usize::from(machine == "upgraded");
        self.old += usize::from(machine == "old");
        self.cases.push(CaseResult { name: case.to_string(), met, exit, machine, wrong, transcripts });
    }
}
