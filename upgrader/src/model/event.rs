//! The events of a run.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::model::conffile::ConffileResult;
use crate::model::finding::Finding;
use crate::model::hook::{HookOutcome, Phase};
use crate::model::plan::Plan;
use crate::model::step::Step;
use crate::printable;

/// An event of a run. Processes that follow a run get its events as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Event {
    /// A program of the upgrader started.
    Started {
        /// Its version.
        version: String,
        /// Its arguments.
        arguments: Vec<String>,
        /// When.
        time: Timestamp,
    },
    /// The run continues in the background.
    Detached {
        /// The transient systemd unit that works. None without systemd: this process works, and ignores the signals of its terminal.
        unit: Option<String>,
        /// The upgrader's command, to reattach with.
        command: String,
    },
    /// Something wants the admin's attention.
    Attention(Attention),
    /// A step began.
    Began(Step),
    /// A step ended without failing.
    Ended(Step),
    /// The upgrader's own package goes from one version to another, or would without `--dry-run`.
    SelfUpdate {
        /// The upgrader's package.
        package: String,
        /// The installed version.
        from: String,
        /// The candidate version.
        to: String,
        /// Whether that is done.
        outcome: SelfUpdateOutcome,
    },
    /// What would change is known.
    Planned {
        /// The product's name, as people write it.
        product: String,
        /// Those of the packages that change which come from where the product comes from.
        #[serde(default)]
        own: Vec<String>,
        /// What would change.
        plan: Box<Plan>,
    },
    /// The run waits for another program to release a lock of dpkg or apt.
    Waiting {
        /// Who: `apt-get (pid 123)`.
        who: String,
        /// For how many seconds more, at most.
        seconds: u64,
    },
    /// The machine is not as it should be for an upgrade.
    Found(Finding),
    /// How far apt is with what it does.
    Progress {
        /// In percent of it.
        percent: u8,
        /// What it is at, in apt's words.
        what: String,
    },
    /// The upgrade replaced or kept a conffile.
    Conffile(ConffileResult),
    /// The question was answered with yes or not.
    Answered(bool),
    /// The interrupted work of dpkg is about to be finished.
    Repairing,
    /// An earlier run was interrupted. This run completes it or rolls it back.
    Interrupted(InterruptedRun),
    /// A step is skipped: it was done before the run was interrupted.
    StepAlreadyDone(Step),
    /// A hook is skipped: it ran before the run was interrupted.
    HookAlreadyDone(Phase, String),
    /// The rollback data is saved.
    RollbackDataSaved {
        /// How many paths.
        paths: u64,
        /// What that takes on the disk, in bytes.
        bytes: u64,
    },
    /// The packages are given a second try, after this error.
    Retrying(String),
    /// What a rollback would change is known.
    RollbackPreview(RollbackPreview),
    /// The rollback begins.
    RollingBack {
        /// The product's name, as people write it.
        product: String,
        /// The version that it rolls back to.
        to: String,
    },
    /// The rollback has restored every path.
    Restored {
        /// The number of restored paths.
        changed: u64,
        /// The number of removed paths, which the upgrade had added.
        removed: u64,
    },
    /// The rollback has restored the database.
    DatabaseRestored {
        /// Its name.
        database: String,
        /// The name under which its latest state is kept; none if its owner had dropped it.
        kept_as: Option<String>,
    },
    /// A hook is about to run.
    HookBegan(Phase, String),
    /// Something in a hook directory is not run, for this reason.
    HookSkipped(Phase, String, String),
    /// A hook ran.
    HookEnded {
        /// When.
        phase: Phase,
        /// Its name.
        hook: String,
        /// How it ended.
        ended: HookOutcome,
        /// How long it took, in milliseconds.
        milliseconds: u64,
    },
    /// The database is about to be saved, because it is about to be migrated.
    DatabaseSaving {
        /// Its name.
        database: String,
        /// Where the dump goes.
        directory: String,
    },
    /// The database is saved.
    DatabaseSaved {
        /// The path of the dump.
        file: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The database with this name is about to be migrated.
    Migrating(String),
    /// Something among the migrations is not applied, for this reason.
    MigrationSkipped(String, String),
    /// A migration was applied; if it failed, with this error.
    Migrated(String, Result<(), String>),
    /// A product service is being restarted.
    ServiceRestarting(String),
    /// A service is up, and ready if it can say so.
    ServiceUp {
        /// The service.
        service: String,
        /// How long it was not there, in milliseconds: from just before it was stopped until it was up and ready.
        outage: u64,
    },
    /// A service did not come up, or did not stay up.
    ServiceDown {
        /// The service.
        service: String,
        /// What is known of the reason.
        reason: String,
        /// The last lines of its log.
        log: Vec<String>,
    },
    /// A service is not restarted, for this reason.
    ServiceSkipped(String, String),
    /// These services beside the product's run files that were replaced, and are about to be restarted.
    OthersRestarting(Vec<String>),
    /// systemd was re-executed because it ran files that were replaced; if that failed, with this error.
    ManagerReexecuted(Result<(), String>),
    /// What runs files that were replaced and cannot be restarted on a machine that is in use: its name, and why not.
    RestartRecommended(Vec<(String, String)>),
    /// The machine should be rebooted, for these reasons.
    RebootRecommended(Vec<String>),
    /// A line that an external program printed.
    Output {
        /// The program or hook.
        source: String,
        /// The line, without its end.
        line: String,
    },
    /// The run failed. What is known of the reason, and what to do.
    Failed(String),
    /// The run is over.
    Finished {
        /// The exit code.
        exit: Exit,
        /// When.
        time: Timestamp,
        /// A message for the admin; may be empty.
        message: String,
    },
}

/// What a rollback changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RollbackPreview {
    /// The product's name, as people write it.
    pub product: String,
    /// The version that is installed, if one is.
    pub from: Option<String>,
    /// The version that the machine rolls back to.
    pub to: String,
    /// When the upgrade ended.
    pub since: Timestamp,
    /// What has changed since then, and how.
    pub changed_since: Vec<String>,
    /// The packages that others have changed since then.
    #[serde(default)]
    pub packages_since: Vec<String>,
    /// The database that is rolled back, too.
    pub database: Option<String>,
}

/// A run that did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InterruptedRun {
    /// The product's name, as people write it.
    pub product: String,
    /// The version that the machine comes from.
    pub from: String,
    /// The version that it was on its way to.
    pub to: String,
    /// The step that it was at.
    pub step: Option<Step>,
    /// The hook that was running.
    pub hook: Option<String>,
    /// When it was there for the last time, as far as is known.
    pub last: Timestamp,
    /// True if it was interrupted during a rollback.
    pub rolling_back: bool,
    /// True if a rollback is possible.
    pub can_roll_back: bool,
}

/// Something that does not stop a run but wants the admin's attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    /// What is so: a sentence without its full stop.
    pub message: String,
    /// What the admin can do, as sentences.
    pub remedy: String,
}

impl Attention {
    /// What is so, and what the admin can do.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  What to do: {}", printable::line(&self.message), printable::line(&self.remedy))
    }
}

/// What becomes of a newer version of the upgrader itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelfUpdateOutcome {
    /// It is installed.
    Installed,
    /// Not installed: this is a dry run.
    DryRun,
    /// Not installed: the admin holds the package.
    Held,
}

/// A display or recorder of events.
pub trait Subscriber {
    /// Receives an event. A subscriber that fails (a full disk, a closed terminal) says nothing: the run continues.
    fn receive(&mut self, event: &Event);
}
