//! What a journal tells of the run that wrote it.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::JournalEntry;
use crate::exit::Exit;
use crate::model::hook::Phase;
use crate::model::plan::Plan;
use crate::model::step::Step;

/// How far a run came that did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PastRun {
    /// When it started.
    pub(crate) started: Timestamp,
    /// What it was going to do when it began: where the machine comes from.
    pub(crate) plan: Plan,
    /// When something was written last.
    pub(crate) last: Timestamp,
    /// How often the machine has taken it up again by itself.
    pub(crate) boots: u32,
    /// Why it is being undone, if it is.
    pub(crate) rolling_back: Option<String>,
    /// The database as it was before it was migrated, if its migration began.
    pub(crate) dump: Option<PathBuf>,
    /// The units that were active before anything was changed.
    pub(crate) active: Vec<String>,
    /// How it stopped, if it was not cut short.
    pub(crate) stopped: Option<Exit>,
    /// What it was going to do when it was taken up last.
    latest: Plan,
    /// The boot of the machine in which it was under way last; empty if an older upgrader did not write it down.
    boot: String,
    /// The step that has begun and not ended.
    under_way: Option<Step>,
    ended: Vec<Step>,
    begun: Vec<Step>,
    hooks: Vec<(Phase, PathBuf)>,
    hook: Option<PathBuf>,
}

impl PastRun {
    pub(super) fn new(started: Timestamp, plan: Plan, boot: String, last: Timestamp) -> Self {
        Self {
            started,
            latest: plan.clone(),
            boot,
            under_way: None,
            plan,
            last,
            boots: 0,
            rolling_back: None,
            dump: None,
            active: Vec::new(),
            stopped: None,
            ended: Vec::new(),
            begun: Vec::new(),
            hooks: Vec::new(),
            hook: None,
        }
    }

    pub(super) fn note(&mut self, entry: JournalEntry, time: Timestamp) {
        self.last = time;
        match entry {
            JournalEntry::Began { .. } => {}
            JournalEntry::Resumed { plan, at_boot, boot } => {
                self.boot = boot;
                self.boots = self.boots.saturating_add(u32::from(at_boot));
                self.stopped = None;
                // On the way to another version everything has its turn anew; what is saved stays saved.
                if plan.candidate != self.latest.candidate {
                    self.ended.retain(|step| *step == Step::SaveRollbackData);
                    self.hooks.clear();
                }
                self.latest = *plan;
            }
            JournalEntry::PackagesRolledBack => {
                self.under_way = None;
                self.begun.retain(|step| *step < Step::Packages && *step != Step::Repair);
                self.ended.retain(|step| *step < Step::Packages);
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
            // Of a run that goes on, those of its beginning count.
            JournalEntry::Active(units) => {
                if self.active.is_empty() {
                    self.active = units;
                }
            }
            JournalEntry::Migrating(dump) => {
                self.dump.get_or_insert(dump);
            }
            JournalEntry::RollingBack(reason) => {
                self.rolling_back.get_or_insert(reason);
            }
            JournalEntry::Stopped(exit) => self.stopped = Some(exit),
        }
    }

    /// The step that it was at; none if it had not begun one.
    pub(crate) fn step(&self) -> Option<Step> {
        self.begun.last().copied()
    }

    /// The hook that was running.
    pub(crate) fn hook(&self) -> Option<&Path> {
        self.hook.as_deref()
    }

    /// True if this step was begun, whatever came of it.
    pub(crate) fn has_begun(&self, step: Step) -> bool {
        self.begun.contains(&step)
    }

    /// True if this step came to its end.
    pub(crate) fn has_ended(&self, step: Step) -> bool {
        self.ended.contains(&step)
    }

    /// True if this hook ran to its end, however it ended.
    pub(crate) fn has_run(&self, phase: Phase, hook: &Path) -> bool {
        self.hooks.iter().any(|(when, path)| *when == phase && path == hook)
    }

    /// True if the machine may have been changed.
    pub(crate) fn has_changed_something(&self) -> bool {
        self.begun.iter().any(|step| step.changes_the_machine())
    }

    /// True if it did not say that it stops, or is half-way back: then it is to be taken up before anything else.
    pub(crate) fn was_interrupted(&self) -> bool {
        self.stopped.is_none() || self.rolling_back.is_some()
    }

    /// True if the machine has booted since while packages changed: what dpkg had done by then may be on the disk or not.
    #[must_use]
    pub(crate) fn lost_power_in_packages(&self, boot: &str) -> bool {
        let in_packages = matches!(self.under_way, Some(Step::Repair | Step::Packages));
        in_packages && !self.boot.is_empty() && self.boot != boot
    }

    /// What it was going to do when it was taken up last.
    pub(crate) fn latest_plan(&self) -> &Plan {
        &self.latest
    }
}
