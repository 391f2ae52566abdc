//! Power cuts: makes states of a disk during and after an upgrade, and boots a machine from each. A captured state lacks what the kernel had
//! not yet written. A recorded one also lacks writes that the disk had not yet flushed. The crash tests kill processes and never lose either.

mod captured_run;
mod examine;
mod fixture;
mod recorded_run;
mod repeated;
mod state;

use std::io::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::seq::SliceRandom as _;
use serde::Serialize;

pub use self::repeated::check_repeated;

use self::captured_run::{AFTER_THE_END, CapturedRun, MINUTE_AFTER_THE_END};
use self::examine::{DIVERGED, Examined, ResumedBy, examine};
use self::fixture::Fixture;
use self::recorded_run::RecordedRun;
use self::state::State;
use crate::at_once::each;
use crate::data;
use crate::machines::disk::Filesystem;
use crate::machines::image::Debian;
use crate::packages::binaries;

/// How many of the disks of states that diverged are saved: they have some 600 MB each.
const SAVED: usize = 3;

/// Which states are made, and of which disks.
#[derive(Debug, Clone, clap::Args)]
pub struct PowerOptions {
    /// The filesystem of the machine's root [default: each in turn]
    #[arg(long, value_name = "NAME")]
    filesystem: Option<Filesystem>,
    /// How many captured states of a filesystem are examined
    #[arg(long, value_name = "N", default_value_t = 60)]
    states: usize,
    /// How many states of a filesystem are made from recorded writes and examined
    #[arg(long, value_name = "N", default_value_t = 20)]
    recorded: usize,
    /// How many machines are examined at once
    #[arg(long, value_name = "N", default_value_t = 3)]
    jobs: usize,
}

/// What came of it: `target/power/results.json`.
#[derive(Debug, Default, Serialize)]
struct Results {
    /// How many states were examined.
    total: usize,
    /// How many of them were made from recorded writes.
    recorded: usize,
    /// How many of them ended as neither the old machine nor the upgraded one, or as the old one after the run had ended with success.
    diverged: usize,
    /// How many of these were captured after the run had ended with success.
    diverged_after_success: usize,
    /// How many ended as the upgraded machine.
    completed: usize,
    /// How many ended as the old machine.
    rolled_back: usize,
    /// How many files of 0 bytes there were where the references have none, in all states together.
    empty_files: usize,
    states: Vec<StateResult>,
}

#[derive(Debug, Serialize)]
struct StateResult {
    filesystem: String,
    kind: StateKind,
    state: String,
    outcome: &'static str,
    /// In what the machine differs from the reference that it is nearest to, or what it said that is not true.
    differences: Vec<String>,
}

/// How a state was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum StateKind {
    /// It is what the filesystem had written at a moment.
    Captured,
    /// It is what had been flushed at a moment, and some of what was written since.
    Recorded,
}

/// Makes the states, examines each, and writes the results.
///
/// # Errors
/// If a state diverged, after all were examined; or if this host cannot make disks.
pub fn run(options: &PowerOptions, out: &mut dyn Write) -> Result<()> {
    let mut results = Results::default();
    let filesystems = options.filesystem.map_or(Filesystem::ALL.to_vec(), |one| vec![one]);
    for filesystem in filesystems {
        let fixture = Fixture::make(Debian::Bookworm, filesystem)?;
        writeln!(out, "{filesystem}: the old machine and the upgraded one are known")?;
        let mut after_the_end: &[u64] = &MINUTE_AFTER_THE_END;
        let missing = |results: &Results| options.states.saturating_sub(results.count(filesystem, StateKind::Captured));
        while missing(&results) > 0 {
            for (run, runs) in CapturedRun::ALL.into_iter().zip((1..=CapturedRun::ALL.len()).rev()) {
                let (world, mut states) = run.capture(&fixture, after_the_end)?;
                match run.capture_resumed(&fixture, &states) {
                    Ok(resumed) => states.extend(resumed),
                    Err(error) => writeln!(out, "{filesystem}: a resumed run could not be captured: {error:#}")?,
                }
                let states = chosen(states, missing(&results).div_ceil(runs));
                examine_all(&fixture, StateKind::Captured, states, options.jobs, &mut results, out)?;
                drop(world);
            }
            after_the_end = &AFTER_THE_END;
        }
        for (run, share) in CapturedRun::ALL.into_iter().zip([options.recorded.div_ceil(2), options.recorded / 2]) {
            if share == 0 {
                continue;
            }
            let (world, recorded) = RecordedRun::record(run, &fixture, recorded_run::AFTER_THE_END)?;
            writeln!(out, "{filesystem}: recorded the {}", recorded.summary())?;
            examine_all(&fixture, StateKind::Recorded, recorded.states(share)?, options.jobs, &mut results, out)?;
            drop(world);
        }
    }
    writeln!(
        out,
        "{} states ({} of them recorded): {} completed, {} rolled back, {} diverged ({} of them after exit code 0), {} files of 0 bytes",
        results.total,
        results.recorded,
        results.completed,
        results.rolled_back,
        results.diverged,
        results.diverged_after_success,
        results.empty_files
    )?;
    ensure!(results.diverged == 0, "{} of {} states diverged", results.diverged, results.total);
    Ok(())
}

/// Moments of an upgrade at which every run of the tests cuts the power: while packages change, when they are said to be changed, and right after
/// the run has ended with success. With who resumes the run, and how often the saved paths are restored for that.
const CHOSEN: [(&str, ResumedBy, RangeInclusive<usize>); 4] = [
    ("step-began packages", ResumedBy::Unit, 1..=1),
    ("step-began packages", ResumedBy::Admin, 1..=1),
    // The entry has been written, and may not be on the disk yet.
    ("step-ended packages", ResumedBy::Unit, 0..=1),
    ("after exit code 0", ResumedBy::Unit, 0..=0),
];

/// Examines the chosen states of a machine with this filesystem.
///
/// # Errors
/// If one diverged, or this host cannot make disks.
pub fn check(filesystem: Filesystem) -> Result<()> {
    let fixture = Fixture::make(Debian::Bookworm, filesystem)?;
    let (_world, states) = CapturedRun::Upgrade.capture(&fixture, &[0])?;
    for (moment, resumed_by, restores) in CHOSEN {
        let of_moment: Vec<&State> = states.iter().filter(|state| state.name.contains(moment)).collect();
        let state = of_moment.get(of_moment.len() / 2).with_context(|| format!("no state was captured at {moment}"))?;
        let examined = examine(&fixture, state, resumed_by)?;
        ensure!(
            examined.outcome != DIVERGED,
            "{filesystem}, {}: the machine is neither the old nor the upgraded one, with {} files of 0 bytes:\n{}",
            state.name,
            examined.empty_files,
            examined.differences.join("\n")
        );
        ensure!(
            restores.contains(&examined.restores),
            "{filesystem}, {}, resumed by {resumed_by:?}: the saved paths were restored {} times",
            state.name,
            examined.restores
        );
    }
    Ok(())
}

/// So many of the states, chosen at random, or all if there are fewer.
fn chosen(mut states: Vec<State>, count: usize) -> Vec<State> {
    states.shuffle(&mut rand::thread_rng());
    states.truncate(count);
    states
}

/// Records an upgrade on a disk with this filesystem, and examines the state in which the power was cut as soon as the upgrade had ended, and
/// the disk had lost all that was not flushed.
///
/// # Errors
/// If the machine is not the upgraded one, or this host cannot make disks.
pub fn check_flushed(filesystem: Filesystem) -> Result<()> {
    let fixture = Fixture::make(Debian::Bookworm, filesystem)?;
    let (_world, recorded) = RecordedRun::record(CapturedRun::Upgrade, &fixture, Duration::ZERO)?;
    let state = recorded.state_at_the_end()?;
    let examined = examine(&fixture, &state, ResumedBy::Unit)?;
    ensure!(
        examined.outcome == "completed" && examined.restores == 0,
        "{filesystem}, {}: {} after {} restores:\n{}",
        state.name,
        examined.outcome,
        examined.restores,
        examined.differences.join("\n")
    );
    Ok(())
}

fn examine_all(
    fixture: &Fixture,
    kind: StateKind,
    states: Vec<State>,
    jobs: usize,
    results: &mut Results,
    out: &mut dyn Write,
) -> Result<()> {
    each(
        states,
        jobs.max(1),
        |state| examine(fixture, state, ResumedBy::Unit),
        |state, result, seconds| {
            let examined = result.unwrap_or_else(|error| Examined::failed(format!("{error:#}")));
            results.add(kind, &state, &examined);
            // After each, so that an interrupted run has results, too.
            data::write(&binaries::target().join("power/results.json"), serde_json::to_string_pretty(results)?)?;
            let (filesystem, name, outcome) = (state.capture.filesystem, &state.name, examined.outcome);
            writeln!(out, "{:>4}  {filesystem:<6} {name:<44} {seconds:>3} s  {outcome}", results.total)?;
            if outcome == DIVERGED {
                examined.differences.iter().take(6).try_for_each(|line| writeln!(out, "        {line}"))?;
                if results.diverged <= SAVED {
                    let path = binaries::target().join(format!("power/diverged-{}.disk", results.diverged));
                    state.capture.save(&path)?;
                    writeln!(out, "        the disk before the boot: {}", path.display())?;
                }
            }
            Ok(())
        },
    )
}

impl Results {
    /// How many states of a kind there are.
    fn count(&self, filesystem: Filesystem, kind: StateKind) -> usize {
        let filesystem = filesystem.to_string();
        self.states.iter().filter(|state| state.filesystem == filesystem && state.kind == kind).count()
    }

    fn add(&mut self, kind: StateKind, state: &State, examined: &Examined) {
        self.total += 1;
        self.recorded += usize::from(kind == StateKind::Recorded);
        self.empty_files += examined.empty_files;
        match examined.outcome {
            "completed" => self.completed += 1,
            "rolled back" => self.rolled_back += 1,
            _ => {
                self.diverged += 1;
                self.diverged_after_success += usize::from(state.after_success);
            }
        }
        self.states.push(StateResult {
            filesystem: state.capture.filesystem.to_string(),
            kind,
            state: state.name.clone(),
            outcome: examined.outcome,
            differences: examined.differences.clone(),
        });
    }
}
