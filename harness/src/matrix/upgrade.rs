//! The one procedure of an upgrade under test: baseline, run, comparison. The cells of the matrix, the defects and the gate differ in how a
//! machine is made and how the upgrader is started, and in nothing else.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::baseline::{Baseline, DataUnit};
use super::check::{Target, Upgraded};
use super::record::Record;
use super::run_trace::RunTrace;
use super::state::State;
use crate::at_once::both;
use crate::machines::transcript::Transcript;
use crate::machines::world::World;
use crate::observe::expectation::{End, Expectation};
use crate::observe::inventory::Inventory;

/// A machine that is ready for its upgrade.
pub(crate) struct TestMachine<'a> {
    pub(crate) world: World,
    /// The name of the upgrader's package and command.
    pub(crate) upgrader: String,
    /// The services of the product.
    pub(crate) services: Vec<&'a str>,
    pub(crate) state: &'a State,
    /// What is expected of the run.
    pub(crate) expected: Expectation,
    /// Whether it loses its power during the run.
    pub(crate) loses_power: bool,
    /// What of its data has to be there afterwards.
    pub(crate) data: DataUnit,
}

/// What is particular about the upgrade of a machine.
pub(crate) trait Subject {
    fn test_machine(&self) -> &TestMachine<'_>;
    /// Starts the upgrader, and waits for its end.
    fn start(&self) -> Result<Transcript>;
    /// What an upgraded machine is compared with.
    fn target(&self) -> Result<Target>;
    /// Adds checks of its own after the run, and returns how the machine ended; `None` if nothing else is compared.
    fn ended(&mut self, run: &Run, record: &mut Record) -> Result<Option<End>>;
    /// Continues after the comparison.
    fn finish(&mut self, end: End, run: &Run, record: &mut Record) -> Result<()>;
}

/// A run that has ended.
pub(crate) struct Run {
    /// The machine before.
    pub(crate) baseline: Baseline,
    /// The screen and the exit code.
    pub(crate) transcript: Transcript,
    /// What happened.
    pub(crate) trace: RunTrace,
}

/// Does an upgrade with an empty directory for its record, and notes what fails. If the process is killed, the directory stays empty.
pub(crate) fn recorded(
    mut record: Record,
    directory: &Path,
    upgrade: impl FnOnce(&mut Record) -> Result<()>,
) -> Result<Record> {
    let start = Instant::now();
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    if let Err(error) = upgrade(&mut record) {
        record.failures.push(format!("{error:#}"));
    }
    record.took = millis(start.elapsed());
    Ok(record)
}

/// Upgrades a machine, compares it with what it was or with a machine on which the release was installed, and saves its logs. `local` is what
/// is local to the machine, if that was collected before.
pub(crate) fn perform(
    subject: &mut impl Subject,
    local: Option<Inventory>,
    record: &mut Record,
    directory: &Path,
) -> Result<()> {
    if let Err(error) = compare(subject, local, record) {
        record.failures.push(format!("{error:#}"));
    }
    let TestMachine { world, upgrader, .. } = subject.test_machine();
    record.save_logs(&world.machine, upgrader, directory).context("its logs could not be saved")
}

fn compare(subject: &mut impl Subject, local: Option<Inventory>, record: &mut Record) -> Result<()> {
    let TestMachine { world, upgrader, services, state, expected, loses_power, .. } = subject.test_machine();
    let (machine, loses_power) = (&world.machine, *loses_power);
    let baseline = Baseline::collect(machine, services, expected, local)?;
    let begin = Instant::now();
    state.start_beside(machine)?;
    let transcript = subject.start()?;
    record.run = millis(begin.elapsed());
    record.screen = world.redacted(&transcript.screen);
    if !loses_power {
        record.exit = Some(transcript.exit);
        record.expect(&transcript, expected);
    }
    let trace = RunTrace::collect(upgrader, &baseline.mark, machine, services)?;
    record.timeline.clone_from(&trace.timeline);
    let run = Run { baseline, transcript, trace };
    let Some(end) = subject.ended(&run, record)? else { return Ok(()) };
    let (baseline, machine) = (&run.baseline, &subject.test_machine().world.machine);
    match end {
        End::Unchanged => record.note(("nothing was changed", baseline.changes(machine, loses_power)?)),
        End::RolledBack => record.note(("everything was restored", baseline.not_restored(machine)?)),
        End::Upgraded | End::Stuck => {}
    }
    subject.finish(end, &run, record)
}

/// Compares an upgraded machine with what it has to be.
pub(crate) fn check_upgraded(
    subject: &impl Subject,
    baseline: &Baseline,
    expected: &Expectation,
    record: &mut Record,
) -> Result<()> {
    let TestMachine { world, upgrader, services, data, .. } = subject.test_machine();
    let (machine, target) = (&world.machine, &subject.target()?);
    let (failed_before, since) = (&baseline.failed, &baseline.mark);
    let upgraded = Upgraded { machine, upgrader, services, target, expect: expected, failed_before, since };
    let (upgraded, local) = both(|| upgraded.checks(), || baseline.local_checks(machine, *data));
    upgraded?.into_iter().chain(local?).for_each(|check| record.note(check));
    Ok(())
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
