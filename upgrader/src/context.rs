//! The paths, the settings and the options of a run, which every part of it gets. `cli` parses the command line.

use std::ffi::OsString;
use std::io::{Write, stderr, stdout};

use clap::{Parser, Subcommand};

use crate::config::settings::Config;
use crate::model::step::Mode;
use crate::paths::Paths;
use crate::printable;
use crate::system::without_sync;

/// The verb of the unit that resumes an interrupted run when the machine boots.
pub const RESUME: &str = "resume";

/// The verb of the worker: the process that changes the machine once the question was answered.
pub const WORK: &str = "work";

/// Upgrade the product on this machine, and restart its services in the right order.
///
/// Refreshes the package lists and updates itself first. Then checks the machine, shows the installed version, the candidate
/// version and all changes, and asks once. After that it continues in the background, even without the terminal: runs the
/// pre-upgrade hooks, upgrades the packages, runs the post-upgrade hooks and restarts the services in order.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[command(version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Options {
    /// None for an upgrade.
    #[command(subcommand)]
    pub verb: Option<Verb>,

    /// Download the packages of the upgrade and stop, without a question; only this program is upgraded
    #[arg(short, long, conflicts_with = "dry_run")]
    pub download_only: bool,

    /// Upgrade without asking
    #[arg(short = 'f', long, global = true)]
    pub yes: bool,

    /// Show what would change and stop; this program is not upgraded either
    #[arg(long)]
    pub dry_run: bool,

    /// Upgrade this node of a pair regardless of the version and the role of the other node
    #[arg(long)]
    pub ignore_peer: bool,

    /// Show each line that apt and the hooks print
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Show only the question, the result and what needs attention
    #[arg(short, long)]
    pub quiet: bool,

    /// Print the report as one JSON document at the end; everything else goes to stderr
    #[arg(long, global = true)]
    pub json: bool,
}

/// Something else than an upgrade.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Follow the upgrade that is under way; Ctrl-C only detaches
    Attach,
    /// Show the installed version, the result of the last run, and what needs a restart
    Status {
        /// Compare the packages and files of the machine with those that the vendor has validated
        #[arg(long)]
        drift: bool,
    },
    /// List the past runs, the newest first
    History,
    /// Roll back the last upgrade, or the interrupted one
    Rollback,
    /// Complete an interrupted run, or roll it back; started at boot
    #[command(name = RESUME, hide = true)]
    Resume,
    /// Do the work of a run after its question; started by the run itself
    #[command(name = WORK, hide = true)]
    Work,
    /// Become another program, for which fsync(2) returns at once; started by the worker
    #[command(name = without_sync::VERB, hide = true)]
    WithoutSync {
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

impl Options {
    pub(crate) fn mode(&self) -> Mode {
        match (self.dry_run, self.download_only) {
            (true, _) => Mode::DryRun,
            (false, true) => Mode::DownloadOnly,
            (false, false) => Mode::Upgrade,
        }
    }

    /// True if this process is the worker of a run that another process has begun. What the worker prints is not shown.
    pub(crate) fn works(&self) -> bool {
        matches!(self.verb, Some(Verb::Work))
    }

    pub(crate) fn only_reads(&self) -> bool {
        matches!(self.verb, Some(Verb::Status { .. } | Verb::History))
    }

    /// Where messages for people go: with `--json`, stdout is for the document.
    pub(crate) fn screen(&self) -> Box<dyn Write> {
        if self.json { Box::new(stderr()) } else { Box::new(stdout()) }
    }
}

/// The paths, options and settings of a run.
#[derive(Debug)]
pub struct Context<'a> {
    pub(crate) paths: &'a Paths,
    pub(crate) options: &'a Options,
    pub(crate) config: &'a Config,
}

pub(crate) fn print_json(document: &impl serde::Serialize) {
    if let Ok(text) = serde_json::to_string_pretty(document) {
        let _ = writeln!(stdout(), "{}", printable::json_escaped(&text));
    }
}
