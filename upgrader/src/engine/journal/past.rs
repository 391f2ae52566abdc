//! A run as its journal describes it.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::JournalEntry;
use crate::exit::Exit;
use crate::model::hook::Phase;
use crate::model::plan::Plan;
use crate::model::step::Step;

/// A run as its journal describes it: usually an interrupted one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct PastRun {
    pub(crate) started: Timestamp,
    /// The plan at its beginning; it has the version that the machine comes from.
    pub(crate) plan: Plan,
    /// The time of the last entry.
    pub(crate) last: Timestamp,
    /// How often it was resumed at boot.
    pub(crate) boots: u32,
    /// Why it is being rolled back, if it is.
    pub(crate) rolling_back: Option<String>,
    /// The dump of the database, if its migration began.
    pub(crate) dump: Option<PathBuf>,
    /// The units that were active before anything was changed.
    pub(crate) active: Vec<String>,
    /// How it stopped, if it was not interrupted.
    pub(crate) stopped: Option<Exit>,
    /// The plan when it was resumed last.
    latest: Plan,
    /// The boot of the machine in which it was under way last; empty if an older upgrader did not write it down.
    boot: String,
    /// How often its packages were restored after a power cut, or were about to be.
    pub(crate) restored: u32,
    /// The step that has begun and not ended.
    under_way: Option<Step>,
    ended: Vec<Step>,
    begun: Vec<Step>,
    hooks: Vec<(Phase, PathBuf)>,
    hook: Option<PathBuf>,
}

impl PastRun {
    pub(super) fn new(started: Timestamp, plan: Plan, boot: String, last: Timestamp) -> Self {
        Self { started, latest: plan.clone(), plan, boot, last, ..Self::default() }
    }

    pub(super) fn note(&mut self, entry: JournalEntry, time: Timestamp) {
        self.last = time;
        match entry {
            JournalEntry::Resumed { plan, at_boot, boot } => {
                self.boot = boot;
                self.boots = self.boots.saturating_add(u32::from(at_boot));
                self.stopped = None;
                // For another version every step is repeated; the rollback data stays.
                if plan.candidate != self.latest.candidate {
                    self.ended.retain(|step| *step == Step::SaveRollbackData);
                    self.hooks.clear();
                }
                self.latest = *plan;
            }
            JournalEntry::RollingBackPackages => self.restored = self.restored.saturating_add(1),
            // The machine is as it was when the rollback data was saved: without what the pre-upgrade hooks did.
            JournalEntry::PackagesRolledBack => {
                self.under_way = None;
                self.ended.retain(|step| *step < Step::PreUpgradeHooks);
                self.hook = None;
                self.hooks.clear();
            }
            JournalEntry::StepBegan(step) => {
                self.under_way = Some(step);
                self.begun.push(step);
            }
            JournalEntry::StepEnded(step) => {
                self.under_way = None;
                self.ended.push(step);
            }
            JournalEntry::HookBegan(_, hook) => self.hook = Some(hook),
            JournalEntry::HookEnded(phase, hook, _) => {
                self.hook = None;
                self.hooks.push((phase, hook));
            }
            // Those of the beginning count, not those of a resumed run.
            JournalEntry::Active(units) if self.active.is_empty() => self.active = units,
            JournalEntry::Began { .. } | JournalEntry::Active(_) => {}
            JournalEntry::Migrating(dump) => {
                self.dump.get_or_insert(dump);
            }
            JournalEntry::RollingBack(reason) => {
                self.rolling_back.get_or_insert(reason);
            }
            JournalEntry::Stopped(exit) => self.stopped = Some(exit),
        }
    }

    /// Its last step; none if it had not begun one.
    pub(crate) fn step(&self) -> Option<Step> {
        self.begun.last().copied()
    }

    pub(crate) fn hook(&self) -> Option<&Path> {
        self.hook.as_deref()
    }

    pub(crate) fn has_begun(&self, step: Step) -> bool {
        self.begun.contains(&step)
    }

    pub(crate) fn has_ended(&self, step: Step) -> bool {
        self.ended.contains(&step)
    }

    pub(crate) fn has_run(&self, phase: Phase, hook: &Path) -> bool {
        self.hooks.iter().any(|(when, path)| *when == phase && path == hook)
    }

    /// True if the machine may have been changed.
    pub(crate) fn has_changed_something(&self) -> bool {
        self.begun.iter().any(|step| step.changes_the_machine())
    }

    /// True if it ended without an entry for that, or is partially rolled back: then it must be resumed before another run.
    pub(crate) fn was_interrupted(&self) -> bool {
        self.stopped.is_none() || self.rolling_back.is_some()
    }

    /// True if the machine has booted since while packages changed: the disk may have only a part of what dpkg wrote.
    #[must_use]
    pub(crate) fn lost_power_in_packages(&self, boot: &str) -> bool {
        let in_packages = matches!(self.under_way, Some(Step::Repair | Step::Packages));
        in_packages && !self.boot.is_empty() && self.boot != boot
    }

    /// The plan when it was resumed last.
    pub(crate) fn latest_plan(&self) -> &Plan {
        &self.latest
    }
}
