//! The runs during which the disk of a machine is captured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;

use super::fixture::Fixture;
use crate::at_once::both;
use crate::machines::disk::{Capture, Disk};
use crate::machines::world::World;

/// How often the journal of the run is read. The disk is captured at each new entry.
const WATCHED_EVERY: Duration = Duration::from_millis(5);

/// How long after the last capture another one is made at random, at most.
const RANDOM_WITHIN: u64 = 400;

/// When the disk is captured after the run has ended, in milliseconds.
pub(super) const AFTER_THE_END: [u64; 6] = [0, 300, 1000, 3000, 8000, 20_000];

/// The upgrader's journal, below the root of the disk.
pub(super) const JOURNAL: &str = "var/lib/xivo-upgrade/journal";

/// A run during which the disk is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CapturedRun {
    /// An upgrade.
    Upgrade,
    /// An upgrade in which a service fails, and its rollback.
    Rollback,
}

/// What was on the disk of a machine at one moment.
#[derive(Debug)]
pub(super) struct State {
    /// What had happened last: `upgrade 3.21 s step-ended packages`.
    pub(super) name: String,
    pub(super) capture: Capture,
    /// True if the run had ended with exit code 0.
    pub(super) after_success: bool,
}

impl CapturedRun {
    pub(super) const ALL: [Self; 2] = [Self::Upgrade, Self::Rollback];

    fn name(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::Rollback => "rollback",
        }
    }

    /// Starts the run on a machine, and captures its disk until the run is over. Then the power of the machine is cut; its repository stays up.
    pub(super) fn capture(self, fixture: &Fixture, after_the_end: &[u64]) -> Result<(World, Vec<State>)> {
        let world = fixture.world()?;
        if self == Self::Rollback {
            // In memory, so that it is gone when the machine boots again.
            world.machine.sh(
                "mkdir -p /run/systemd/system/nginx.service.d
                printf '[Service]\\nExecStartPre=/bin/sh -c \"! grep -q 1.2.3 /usr/libexec/nginx\"\\n' >/run/systemd/system/nginx.service.d/fails.conf
                systemctl daemon-reload; sync",
            )?;
        }
        let disk = world.machine.disk().context("the machine has no disk")?;
        let (over, begin) = (AtomicBool::new(false), Instant::now());
        let upgrade = || {
            let result = world.upgrade(&["--yes"]).run();
            over.store(true, Ordering::Release);
            result
        };
        let (ran, states) = both(upgrade, || self.watch(disk, begin, &over));
        let (mut states, ran) = (states?, ran?);
        let exit = ran.exit;
        ensure!(matches!((self, exit), (Self::Upgrade, 0) | (Self::Rollback, 4)), "{ran}");
        let end = Instant::now();
        for after in after_the_end.iter().copied().map(Duration::from_millis) {
            std::thread::sleep(after.saturating_sub(end.elapsed()));
            let name = format!("{} {:.1} s after exit code {exit}", self.name(), after.as_secs_f64());
            states.push(State { name, capture: disk.capture()?, after_success: exit == 0 });
        }
        world.machine.cut_power()?;
        Ok((world, states))
    }

    /// Captures the disk at each new entry of the journal and at random moments, until the run is over.
    fn watch(self, disk: &Disk, begin: Instant, over: &AtomicBool) -> Result<Vec<State>> {
        let journal = disk.path().join(JOURNAL);
        let (mut states, mut entries, mut last) = (Vec::new(), 0, String::from("before the journal"));
        let random = || Instant::now() + Duration::from_millis(rand::thread_rng().gen_range(20..RANDOM_WITHIN));
        let mut next = random();
        while !over.load(Ordering::Acquire) {
            let text = std::fs::read(&journal).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().filter(|line| line.contains('{')).collect();
            let is_new = lines.len() != entries;
            if is_new {
                // Several entries may have come since the journal was read last.
                let new: Vec<String> = lines.iter().skip(entries).map(|line| kind(line)).collect();
                last = if lines.is_empty() { "after the journal".to_owned() } else { new.join(", ") };
                entries = lines.len();
            }
            if is_new || Instant::now() >= next {
                let name = format!("{} {:.2} s {last}", self.name(), begin.elapsed().as_secs_f64());
                states.push(State { name, capture: disk.capture()?, after_success: false });
                next = random();
            }
            std::thread::sleep(WATCHED_EVERY);
        }
        Ok(states)
    }
}

/// The kind of an entry of the journal, and what it says: `step-began packages`.
fn kind(line: &str) -> String {
    let json = line.find('{').map_or("", |at| &line[at..]);
    let Ok(serde_json::Value::Object(entry)) = serde_json::from_str(json) else { return "an entry".to_owned() };
    let Some((kind, what)) = entry.iter().find(|(key, _)| *key != "time") else { return "an entry".to_owned() };
    match what {
        serde_json::Value::String(what) => format!("{kind} {}", what.chars().take(24).collect::<String>()),
        _ => kind.clone(),
    }
}
