//! Runs whose writes and flushes are recorded, and the states that are made of a record.
//!
//! A captured state has all that the filesystem has written. A state of a record lacks some of what was written since the last flush.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::captured_run::{CapturedRun, WATCHED_EVERY, kind};
use super::fixture::Fixture;
use super::state::{JOURNAL, State};
use crate::at_once::both;
use crate::machines::disk::{Capture, Disk};
use crate::machines::world::World;
use crate::machines::write_record::{Loss, Operation, PowerCut, WriteRecord};

/// How long writes are recorded after the run has ended. By default ext4 commits after 5 s.
pub(super) const AFTER_THE_END: Duration = Duration::from_secs(8);

/// How many operations after a flush the power is cut, at most.
const AFTER_A_FLUSH: usize = 6;

/// How many operations after an entry of the journal was seen the power is cut, at most. The entry is seen before it is on the disk.
const AFTER_AN_ENTRY: usize = 30;

/// How many of the power cuts lose everything that was not flushed: one in so many.
const ALL_LOST: u32 = 6;

/// A run whose writes were recorded.
#[derive(Debug)]
pub(super) struct RecordedRun {
    run: CapturedRun,
    /// What was on the disk before.
    before: Capture,
    record: WriteRecord,
    moments: Moments,
    exit: i64,
    /// How long the run took.
    pub(super) took: Duration,
}

/// What the run did, as numbers of operations of the record.
#[derive(Debug)]
struct Moments {
    /// When new entries of the journal were seen, and what they say.
    entries: Vec<(usize, String)>,
    /// When the run had ended.
    end: usize,
}

impl RecordedRun {
    /// Starts the run on a machine, and records what is written until the run is over and so long after. Then the power of the machine is cut;
    /// its repository stays up.
    pub(super) fn record(run: CapturedRun, fixture: &Fixture, after_the_end: Duration) -> Result<(World, Self)> {
        let world = fixture.served_world()?;
        run.prepare(&world)?;
        let disk = world.machine.disk().context("the machine has no disk")?;
        let before = disk.start_recording()?;
        let (over, begin) = (AtomicBool::new(false), Instant::now());
        let upgrade = || {
            let result = world.upgrade(&["--yes"]).run();
            over.store(true, Ordering::Release);
            result
        };
        let (ran, entries) = both(upgrade, || watch(disk, &over));
        let (took, ran) = (begin.elapsed(), ran?);
        run.check(&ran)?;
        let moments = Moments { entries: entries?, end: disk.served()?.recorded() };
        std::thread::sleep(after_the_end);
        let record = disk.served()?.stop_recording()?;
        world.machine.cut_power()?;
        Ok((world, Self { run, before, record, moments, exit: ran.exit, took }))
    }

    /// The states after power cuts at random moments, as many of them as asked for.
    pub(super) fn states(&self, count: usize) -> Result<Vec<State>> {
        let cuts = self.moments.choose(self.record.operations(), count, &mut StdRng::from_entropy());
        self.states_after(&cuts)
    }

    /// The state in which a machine is whose power is cut as soon as the run has ended, and which has lost all that was not flushed.
    pub(super) fn state_at_the_end(&self) -> Result<State> {
        let states = self.states_after(&[PowerCut { after: self.moments.end, loss: Loss::All }])?;
        states.into_iter().next().context("one state")
    }

    fn states_after(&self, cuts: &[PowerCut]) -> Result<Vec<State>> {
        let captures = self.record.images(&self.before, cuts)?;
        let state = |(cut, capture): (&PowerCut, _)| State {
            name: self.name(*cut),
            capture,
            after_success: self.exit == 0 && cut.after >= self.moments.end,
        };
        Ok(cuts.iter().zip(captures).map(state).collect())
    }

    /// What a state is called: `upgrade 7120/9000 some lost (seed 5) step-began packages`.
    fn name(&self, PowerCut { after, loss }: PowerCut) -> String {
        let lost = match loss {
            Loss::All => "all lost".to_owned(),
            Loss::Some { seed } => format!("some lost (seed {seed})"),
        };
        let (run, all) = (self.run.name(), self.record.operations().len());
        let moment = if after >= self.moments.end {
            format!("after exit code {}", self.exit)
        } else {
            let entry = self.moments.entries.iter().rfind(|(at, _)| *at <= after);
            entry.map_or("before the journal", |(_, said)| said).to_owned()
        };
        format!("{run} {after}/{all} {lost} {moment}")
    }

    /// How much was recorded: `5012 writes and 310 flushes in 9.1 s`.
    pub(super) fn summary(&self) -> String {
        let operations = self.record.operations();
        let flushes = operations.iter().filter(|operation| **operation == Operation::Flush).count();
        let writes = operations.len() - flushes;
        format!("{}: {writes} writes and {flushes} flushes in {:.1} s", self.run.name(), self.took.as_secs_f64())
    }
}

impl Moments {
    /// Moments at which the power is cut. Of ten, four are while packages change, two right after a flush, two right after an entry of the
    /// journal, one as soon as the run has ended, and one later.
    fn choose(&self, operations: &[Operation], count: usize, random: &mut StdRng) -> Vec<PowerCut> {
        let all = operations.len();
        let at = |said: &str| self.entries.iter().find(|(_, entry)| entry.contains(said)).map(|(at, _)| *at);
        let began = at("step-began packages").unwrap_or(0);
        let ended = at("step-ended packages").unwrap_or(self.end);
        let flushes: Vec<usize> = (1..=self.end.min(all)).filter(|at| operations[at - 1] == Operation::Flush).collect();
        let moment = |number: usize, random: &mut StdRng| match number % 10 {
            0 | 2 | 5 | 7 => random.gen_range(began..=ended.max(began)),
            1 | 6 if !flushes.is_empty() => {
                flushes[random.gen_range(0..flushes.len())] + random.gen_range(0..=AFTER_A_FLUSH)
            }
            3 | 8 if !self.entries.is_empty() => {
                self.entries[random.gen_range(0..self.entries.len())].0 + random.gen_range(0..=AFTER_AN_ENTRY)
            }
            4 => self.end,
            _ => random.gen_range(self.end.min(all)..=all),
        };
        let mut cuts = Vec::new();
        for number in 0..count {
            let after = moment(number, random).min(all);
            let loss = if random.gen_ratio(1, ALL_LOST) {
                Loss::All
            } else {
                Loss::Some { seed: random.r#gen::<u32>().into() }
            };
            cuts.push(PowerCut { after, loss });
        }
        cuts
    }
}

/// Notes how much was recorded at each new entry of the journal, until the run is over.
fn watch(disk: &Disk, over: &AtomicBool) -> Result<Vec<(usize, String)>> {
    let (journal, served) = (disk.path().join(JOURNAL), disk.served()?);
    let (mut seen, mut count) = (Vec::new(), 0);
    while !over.load(Ordering::Acquire) {
        // Before the journal is read: an entry that is seen then may be later, but not earlier.
        let recorded = served.recorded();
        let text = std::fs::read(&journal).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let entries: Vec<String> = text.lines().filter(|line| line.contains('{')).map(kind).collect();
        if entries.len() != count {
            let new = entries[count.min(entries.len())..].join(", ");
            seen.push((recorded, if new.is_empty() { "after the journal".to_owned() } else { new }));
            count = entries.len();
        }
        std::thread::sleep(WATCHED_EVERY);
    }
    ensure!(!seen.is_empty(), "no entry of the journal was seen");
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_is_cut_where_it_matters() {
        let operations = vec![Operation::Flush; 1000];
        let entry = |at, said: &str| (at, said.to_owned());
        let entries = vec![entry(100, "plan"), entry(200, "step-began packages"), entry(600, "step-ended packages")];
        let moments = Moments { entries, end: 900 };
        let cuts = moments.choose(&operations, 100, &mut StdRng::seed_from_u64(1));
        assert_eq!(cuts.len(), 100);
        assert!(cuts.iter().all(|cut| cut.after <= 1000));
        assert!(cuts.iter().filter(|cut| (200..=600).contains(&cut.after)).count() >= 40, "while packages change");
        assert!(cuts.iter().filter(|cut| (600..=630).contains(&cut.after)).count() >= 3, "at the end of the step");
        assert!(cuts.iter().filter(|cut| cut.after == 900).count() >= 10, "as soon as the run has ended");
        assert!(cuts.iter().filter(|cut| cut.after > 900).count() >= 8, "after the end");
        assert!(cuts.iter().any(|cut| cut.loss == Loss::All) && cuts.iter().any(|cut| cut.loss != Loss::All));
    }

    #[test]
    fn a_record_without_flushes_and_entries_has_states() {
        let moments = Moments { entries: Vec::new(), end: 0 };
        assert_eq!(moments.choose(&[], 20, &mut StdRng::seed_from_u64(1)).len(), 20);
    }
}
