//! The steps and which may follow which.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;

/// What a run consists of, in order. Data, so that a step can be written down by one process and resumed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Read the package lists of every source.
    Refresh,
    /// Bring the upgrader's own package up to date.
    SelfUpdate,
    /// Look whether the machine is fit for an upgrade.
    Preflight,
    /// Compute what would change.
    Plan,
    /// Ask.
    Confirm,
    /// Finish what dpkg was killed in the middle of; without that apt does nothing.
    Repair,
    /// Fetch every package that the plan needs.
    Download,
    /// Save the rollback data.
    SaveRollbackData,
    /// Run the hooks that come before the packages.
    PreUpgradeHooks,
    /// Upgrade the packages.
    Packages,
    /// Bring the database to the schema of the new packages.
    Migrate,
    /// Run the hooks that come after the packages.
    PostUpgradeHooks,
    /// Restart the product's services in order.
    Restart,
    /// Look whether the services are still there.
    Verify,
    /// Put every file back as it was, dpkg's database with them.
    RollBack,
    /// Put the database back as it was, if its migration had begun.
    RollBackDatabase,
    /// Restart the product's services as they were.
    RestartOld,
    /// Look whether the machine is as it was, and its services are there.
    VerifyOld,
}

/// How a step ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it is for.
    Done,
    /// It found nothing that a run could do.
    NothingToDo,
    /// The admin declined.
    Declined,
    /// It did what it is for, and something about it wants attention.
    Attention,
}

/// How far a run is meant to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All the way.
    Upgrade,
    /// The packages are fetched and nothing else happens.
    DownloadOnly,
    /// The plan is shown and nothing happens.
    DryRun,
}

/// What comes after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This step.
    Step(Step),
    /// The end of the run. Whether something wants attention is for the run to know.
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
            // Fetching changes nothing that needs a question.
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

    /// What comes after a step that failed, if the machine can be put back as it was. No step that undoes is undone.
    pub fn undone_by(self) -> Option<Self> {
        let undone =
            matches!(self, Self::Packages | Self::Migrate | Self::PostUpgradeHooks | Self::Restart | Self::Verify);
        undone.then_some(Self::RollBack)
    }

    /// True if the machine may be another one after this step began.
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
            assert!(steps.len() < 20, "the steps go round in circles: {steps:?}");
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
    fn something_that_wants_attention_does_not_stop_a_run() {
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
    fn what_changed_something_is_undone_and_no_undoing_is() {
        let (mut step, mut rollback) = (Step::RollBack, Vec::new());
        while let Next::Step(next) = step.next(Outcome::Done, Mode::Upgrade) {
            rollback.push(step);
            step = next;
        }
        assert_eq!(step.next(Outcome::Done, Mode::Upgrade), Next::End(Exit::RolledBack));
        for step in walk(Mode::Upgrade, Outcome::Done).0 {
            // What dpkg was killed in the middle of was there before.
            let undone = step.exit_on_failure() == Exit::NeedsHuman && step != Step::Repair;
            assert_eq!(step.undone_by(), undone.then_some(Step::RollBack), "{step}");
        }
        assert!(rollback.iter().all(|step| step.undone_by().is_none()), "{rollback:?}");
    }

    #[test]
    fn no_is_the_end_and_so_is_nothing_to_do() {
        assert_eq!(Step::Confirm.next(Outcome::Declined, Mode::Upgrade), Next::End(Exit::Declined));
        assert_eq!(Step::Plan.next(Outcome::NothingToDo, Mode::Upgrade), Next::End(Exit::Done));
    }
}
