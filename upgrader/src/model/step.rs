//! The steps of a run, and which step follows which.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;

/// The steps of a run, in order. They are data: one process records a step, and another process resumes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Read the package lists of every source.
    Refresh,
    /// Update the upgrader's own package.
    SelfUpdate,
    /// Check whether the machine can be upgraded.
    Preflight,
    /// Compute the plan: what would change.
    Plan,
    /// Ask the admin to confirm the plan.
    Confirm,
    /// Finish the interrupted work of dpkg; without that apt refuses to work.
    Repair,
    /// Download every package of the plan.
    Download,
    /// Save the rollback data.
    SaveRollbackData,
    /// Run the pre-upgrade hooks.
    PreUpgradeHooks,
    /// Upgrade the packages.
    Packages,
    /// Migrate the database to the schema of the new packages.
    Migrate,
    /// Run the post-upgrade hooks.
    PostUpgradeHooks,
    /// Restart the product's services in order.
    Restart,
    /// Check that the services stay up.
    Verify,
    /// Restore every file, and the database of dpkg.
    RollBack,
    /// Restore the product's database, if its migration had begun.
    RollBackDatabase,
    /// Restart the product's services in their old version.
    RestartOld,
    /// Check that the old packages are installed and the old services stay up.
    VerifyOld,
}

/// The outcome of a step that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The step is done.
    Done,
    /// There is nothing to upgrade.
    NothingToDo,
    /// The admin declined.
    Declined,
    /// The step is done, and something needs attention.
    Attention,
}

/// How far a run is meant to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every step.
    Upgrade,
    /// Only download the packages.
    DownloadOnly,
    /// Only show the plan.
    DryRun,
}

/// What comes after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This step.
    Step(Step),
    /// The end of the run. The run itself knows whether something needs attention.
    End(Exit),
}

impl Step {
    /// The legal transitions: all of them, and only here. ARCHITECTURE.md has the drawing.
    pub fn next(self, outcome: Outcome, mode: Mode) -> Next {
        match (self, outcome, mode) {
            (_, Outcome::Declined, _) => Next::End(Exit::Declined),
            (_, Outcome::NothingToDo, _) | (Self::Plan, _, Mode::DryRun) | (Self::Download, _, Mode::DownloadOnly) => {
                Next::End(Exit::Done)
            }
            // A download needs no question: it changes nothing.
            (Self::Plan, _, Mode::DownloadOnly) | (Self::Repair, _, _) => Next::Step(Self::Download),
            (Self::Confirm, _, _) => Next::Step(Self::Repair),
            (Self::Refresh, _, _) => Next::Step(Self::SelfUpdate),
            (Self::SelfUpdate, _, _) => Next::Step(Self::Preflight),
            (Self::Preflight, _, _) => Next::Step(Self::Plan),
            (Self::Plan, _, Mode::Upgrade) => Next::Step(Self::Confirm),
            (Self::Download, _, _) => Next::Step(Self::SaveRollbackData),
            (Self::SaveRollbackData, _, _) => Next::Step(Self::PreUpgradeHooks),
            (Self::PreUpgradeHooks, _, _) => Next::Step(Self::Packages),
            (Self::Packages, _, _) => Next::Step(Self::Migrate),
            (Self::Migrate, _, _) => Next::Step(Self::PostUpgradeHooks),
            (Self::PostUpgradeHooks, _, _) => Next::Step(Self::Restart),
            (Self::Restart, _, _) => Next::Step(Self::Verify),
            (Self::Verify, _, _) => Next::End(Exit::Done),
            (Self::RollBack, _, _) => Next::Step(Self::RollBackDatabase),
            (Self::RollBackDatabase, _, _) => Next::Step(Self::RestartOld),
            (Self::RestartOld, _, _) => Next::Step(Self::VerifyOld),
            (Self::VerifyOld, _, _) => Next::End(Exit::RolledBack),
        }
    }

    /// The first step of the rollback that follows if this step fails. None if the step changes no package, or is part of a rollback.
    pub fn rollback_step(self) -> Option<Self> {
        matches!(self, Self::Packages | Self::Migrate | Self::PostUpgradeHooks | Self::Restart | Self::Verify)
            .then_some(Self::RollBack)
    }

    /// True if this step may change the machine.
    pub fn changes_the_machine(self) -> bool {
        self.works(Mode::Upgrade) && !matches!(self, Self::Download | Self::SaveRollbackData)
    }

    /// True if this step runs in the background, because it changes the machine.
    pub fn works(self, mode: Mode) -> bool {
        match self {
            Self::Refresh | Self::SelfUpdate | Self::Preflight | Self::Plan | Self::Confirm => false,
            Self::Download => mode == Mode::Upgrade,
            _ => true,
        }
    }

    /// The exit code when this step fails: it says whether the machine was changed.
    pub fn exit_on_failure(self) -> Exit {
        if self.changes_the_machine() && self != Self::PreUpgradeHooks { Exit::NeedsHuman } else { Exit::Unchanged }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refresh => "refresh",
            Self::SelfUpdate => "self-update",
            Self::Preflight => "preflight",
            Self::Plan => "plan",
            Self::Confirm => "confirm",
            Self::Repair => "repair",
            Self::Download => "download",
            Self::SaveRollbackData => "save rollback data",
            Self::PreUpgradeHooks => "pre-upgrade hooks",
            Self::Packages => "packages",
            Self::Migrate => "migrate",
            Self::PostUpgradeHooks => "post-upgrade hooks",
            Self::Restart => "restart",
            Self::Verify => "verify",
            Self::RollBack => "roll back",
            Self::RollBackDatabase => "roll back database",
            Self::RestartOld => "restart old",
            Self::VerifyOld => "verify old",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps of a run in which every step ends with `outcome`.
    fn walk(mode: Mode, outcome: Outcome) -> (Vec<Step>, Exit) {
        let (mut step, mut steps) = (Step::Refresh, vec![Step::Refresh]);
        loop {
            match step.next(outcome, mode) {
                Next::Step(next) => step = next,
                Next::End(exit) => return (steps, exit),
            }
            steps.push(step);
            assert!(steps.len() < 20, "the steps form a circle: {steps:?}");
        }
    }

    #[test]
    fn an_upgrade_downloads_before_it_touches_anything_and_restarts_after_the_hooks() {
        let (steps, exit) = walk(Mode::Upgrade, Outcome::Done);
        let names: Vec<String> = steps.iter().map(Step::to_string).collect();
        assert_eq!(
            names.join(" > "),
            "refresh > self-update > preflight > plan > confirm > repair > download > save rollback data > pre-upgrade hooks > \
             packages > migrate > post-upgrade hooks > restart > verify"
        );
        assert_eq!(exit, Exit::Done);
    }

    #[test]
    fn a_step_that_needs_attention_does_not_stop_a_run() {
        assert_eq!(walk(Mode::Upgrade, Outcome::Attention).0.last(), Some(&Step::Verify));
    }

    #[test]
    fn a_dry_run_ends_with_the_plan_and_a_download_with_the_packages_fetched() {
        assert_eq!(walk(Mode::DryRun, Outcome::Done).0.last(), Some(&Step::Plan));
        let (steps, _) = walk(Mode::DownloadOnly, Outcome::Done);
        assert_eq!(steps.last(), Some(&Step::Download));
        assert!(!steps.contains(&Step::Confirm), "fetching needs no question");
    }

    #[test]
    fn steps_that_change_the_machine_are_rolled_back_and_steps_of_a_rollback_are_not() {
        let (mut step, mut rollback) = (Step::RollBack, Vec::new());
        while let Next::Step(next) = step.next(Outcome::Done, Mode::Upgrade) {
            rollback.push(step);
            step = next;
        }
        assert_eq!(step.next(Outcome::Done, Mode::Upgrade), Next::End(Exit::RolledBack));
        for step in walk(Mode::Upgrade, Outcome::Done).0 {
            // An earlier dpkg left the work that `repair` finishes: there is no rollback data of before it.
            let is_rolled_back = step.exit_on_failure() == Exit::NeedsHuman && step != Step::Repair;
            assert_eq!(step.rollback_step(), is_rolled_back.then_some(Step::RollBack), "{step}");
        }
        assert!(rollback.iter().all(|step| step.rollback_step().is_none()), "{rollback:?}");
    }

    #[test]
    fn a_run_ends_when_it_is_declined_or_has_nothing_to_do() {
        assert_eq!(Step::Confirm.next(Outcome::Declined, Mode::Upgrade), Next::End(Exit::Declined));
        assert_eq!(Step::Plan.next(Outcome::NothingToDo, Mode::Upgrade), Next::End(Exit::Done));
    }
}
