//! The runs during which the disk of a machine is captured.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::seq::SliceRandom as _;

use super::fixture::Fixture;
use super::state::{JOURNAL, LOG, RESUME_UNIT, State};
use crate::at_once::both;
use crate::machines::disk::Disk;
use crate::machines::machine::Machine;
use crate::machines::transcript::Transcript;
use crate::machines::world::World;

/// How often the journal of the run is read. The disk is captured at each new entry.
pub(super) const WATCHED_EVERY: Duration = Duration::from_millis(5);

/// How long after the last capture another one is made at random, at most.
const RANDOM_WITHIN: u64 = 300;

/// When the disk is captured after the run has ended, in milliseconds.
pub(super) const AFTER_THE_END: [u64; 6] = [0, 300, 1000, 3000, 8000, 20_000];

/// The same for one run of a filesystem: until the kernel has written all by itself, which it does after 30 s.
pub(super) const MINUTE_AFTER_THE_END: [u64; 8] = [0, 300, 1000, 3000, 8000, 20_000, 40_000, 60_000];

/// The same for a resumed run.
const AFTER_RESUMED: [u64; 4] = [0, 300, 2000, 6000];

/// What the upgrader's log says when a run has ended with success.
const FINISHED: &str = "finished with exit code 0";

/// A run during which the disk is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CapturedRun {
    /// An upgrade.
    Upgrade,
    /// An upgrade in which a service fails, and its rollback.
    Rollback,
}

impl CapturedRun {
    pub(super) const ALL: [Self; 2] = [Self::Upgrade, Self::Rollback];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::Rollback => "rollback",
        }
    }

    /// Makes the run of a machine a rollback, if it is to be one.
    pub(super) fn prepare(self, world: &World) -> Result<()> {
        if self == Self::Rollback {
            // In memory, so that it is gone when the machine boots again.
            world.machine.sh(
                "mkdir -p /run/systemd/system/nginx.service.d
                printf '[Service]\\nExecStartPre=/bin/sh -c \"! grep -q 1.2.3 /usr/libexec/nginx\"\\n' >/run/systemd/system/nginx.service.d/fails.conf
                systemctl daemon-reload; sync",
            )?;
        }
        Ok(())
    }

    /// Fails if the run has ended otherwise than it should have.
    pub(super) fn check(self, ran: &Transcript) -> Result<()> {
        ensure!(matches!((self, ran.exit), (Self::Upgrade, 0) | (Self::Rollback, 4)), "{ran}");
        Ok(())
    }

    /// Starts the run on a machine, and captures its disk until the run is over. Then the power of the machine is cut; its repository stays up.
    pub(super) fn capture(self, fixture: &Fixture, after_the_end: &[u64]) -> Result<(World, Vec<State>)> {
        let world = fixture.world()?;
        self.prepare(&world)?;
        let mut captures = Captures::of(&world.machine, self.name().to_owned())?;
        let ran = captures.during(|| world.upgrade(&["--yes"]).run())?;
        self.check(&ran)?;
        captures.after(&format!("exit code {}", ran.exit), ran.exit == 0, after_the_end)?;
        let states = captures.states;
        world.machine.cut_power()?;
        Ok((world, states))
    }

    /// Boots a machine from a state in which this run was interrupted, and captures its disk while the unit resumes the run. Then the power is
    /// cut again. Nothing if no state has such a run.
    pub(super) fn capture_resumed(self, fixture: &Fixture, states: &[State]) -> Result<Vec<State>> {
        let moment = match self {
            Self::Upgrade => "packages",
            // The first entry may not be on the disk yet. Then the upgrade is resumed.
            Self::Rollback => "roll-back",
        };
        let interrupted: Vec<&State> = states.iter().filter(|state| state.name.contains(moment)).collect();
        let Some(state) = interrupted.choose(&mut rand::thread_rng()) else { return Ok(Vec::new()) };
        let machine = state.boot_without_unit(fixture)?;
        let mut captures = Captures::of(&machine, format!("{}, resumed:", self.name()))?;
        captures.during(|| machine.command(&["systemctl", "start", RESUME_UNIT]).run())?;
        // Lines of the interrupted run may be incomplete.
        let log = fs::read(captures.disk.path().join(LOG)).unwrap_or_default();
        let after_success = String::from_utf8_lossy(&log).contains(FINISHED);
        captures.after("the unit", after_success, &AFTER_RESUMED)?;
        let states = captures.states;
        machine.cut_power()?;
        Ok(states)
    }
}

/// The captures of a disk during a run.
struct Captures<'a> {
    disk: &'a Disk,
    /// The run.
    name: String,
    states: Vec<State>,
    /// When the disk was written last before it was captured last.
    written: Option<SystemTime>,
}

impl<'a> Captures<'a> {
    fn of(machine: &'a Machine, name: String) -> Result<Self> {
        let disk = machine.disk().context("the machine has no disk")?;
        Ok(Self { disk, name, states: Vec::new(), written: None })
    }

    /// Captures the disk, unless nothing was written since it was captured last.
    fn add(&mut self, moment: &str, after_success: bool) -> Result<()> {
        let (name, written) = (format!("{} {moment}", self.name), self.disk.last_written()?);
        match self.states.last_mut() {
            // More is required of this state then.
            Some(last) if self.written == Some(written) && after_success && !last.after_success => {
                (last.name, last.after_success) = (name, true);
            }
            Some(_) if self.written == Some(written) => {}
            _ => {
                self.states.push(State { name, capture: self.disk.capture()?, after_success });
                self.written = Some(written);
            }
        }
        Ok(())
    }

    /// Captures the disk at each new entry of the journal and at random moments, until `run` returns.
    fn during<T: Send>(&mut self, run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let over = AtomicBool::new(false);
        let run = || {
            let result = run();
            over.store(true, Ordering::Release);
            result
        };
        let (ran, watched) = both(run, || self.watch(&over));
        watched?;
        ran
    }

    fn watch(&mut self, over: &AtomicBool) -> Result<()> {
        let begin = Instant::now();
        let mut lines = self.journal();
        let mut last = lines.last().map_or_else(|| "before the journal".to_owned(), |line| kind(line));
        let random = || Instant::now() + Duration::from_millis(rand::thread_rng().gen_range(20..RANDOM_WITHIN));
        let mut next = random();
        while !over.load(Ordering::Acquire) {
            let now = self.journal();
            let is_new = now.len() != lines.len();
            if is_new {
                // Several entries may have come since the journal was read last.
                let new: Vec<String> = now.iter().skip(lines.len()).map(|line| kind(line)).collect();
                last = if now.is_empty() { "after the journal".to_owned() } else { new.join(", ") };
                lines = now;
            }
            if is_new || Instant::now() >= next {
                self.add(&format!("{:.2} s {last}", begin.elapsed().as_secs_f64()), false)?;
                next = random();
            }
            std::thread::sleep(WATCHED_EVERY);
        }
        Ok(())
    }

    /// Captures the disk so many milliseconds after the end of the run.
    fn after(&mut self, end: &str, after_success: bool, moments: &[u64]) -> Result<()> {
        let ended = Instant::now();
        for after in moments.iter().copied().map(Duration::from_millis) {
            std::thread::sleep(after.saturating_sub(ended.elapsed()));
            self.add(&format!("{:.1} s after {end}", after.as_secs_f64()), after_success)?;
        }
        Ok(())
    }

    /// The entries of the upgrader's journal.
    fn journal(&self) -> Vec<String> {
        let text = fs::read(self.disk.path().join(JOURNAL)).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().filter(|line| line.contains('{')).map(str::to_owned).collect()
    }
}

/// The kind of an entry of the journal, and what it says: `step-began packages`.
pub(super) fn kind(line: &str) -> String {
    let json = line.find('{').map_or("", |at| &line[at..]);
    let Ok(serde_json::Value::Object(entry)) = serde_json::from_str(json) else { return "an entry".to_owned() };
    let Some((kind, what)) = entry.iter().find(|(key, _)| *key != "time") else { return "an entry".to_owned() };
    match what {
        serde_json::Value::String(what) => format!("{kind} {}", what.chars().take(24).collect::<String>()),
        _ => kind.clone(),
    }
}
