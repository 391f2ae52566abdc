//! What every part of a run is given: the paths, the admin's settings and the options. Parsing the command line is `cli`.

use std::io::{Write, stderr, stdout};

use clap::{Parser, Subcommand};

use crate::config::settings::Config;
use crate::model::step::Mode;
use crate::paths::Paths;

/// The verb of the unit that resumes an interrupted run when the machine boots.
pub const RESUME: &str = "resume";

/// The verb of the worker: the process that changes the machine once the question was answered.
pub const WORK: &str = "work";

/// Upgrade the product on this machine, and restart its services in the right order.
///
/// Refreshes the package lists and brings itself up to date first. Then looks whether the machine is fit for an upgrade, shows
/// the installed and the candidate version and everything that would change, and asks once. After that it goes on by itself,
/// whatever becomes of the terminal: runs the pre-upgrade hooks, upgrades the packages, runs the post-upgrade hooks and restarts
/// the services one after the other.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[command(version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Options {
    /// Something else than an upgrade.
    #[command(subcommand)]
    pub verb: Option<Verb>,

    /// Fetch the packages of the upgrade and stop; nothing is asked, and nothing but this program is upgraded
    #[arg(short, long, conflicts_with = "dry_run")]
    pub download_only: bool,

    /// Upgrade without asking
    #[arg(short = 'f', long, global = true)]
    pub yes: bool,

    /// Show what would change and stop; not even this program is upgraded
    #[arg(long)]
    pub dry_run: bool,

    /// Upgrade this node of a pair whatever the other one runs, and whichever should go first
    #[arg(long)]
    pub ignore_peer: bool,

    /// Show each line that apt and the hooks print
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Show only the question, and what wants attention
    #[arg(short, long)]
    pub quiet: bool,

    /// Print the report as one JSON document at the end; everything else goes to stderr
    #[arg(long, global = true)]
    pub json: bool,
}

/// Something else than an upgrade.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Show the upgrade that is under way; Ctrl-C leaves it alone
    Attach,
    /// Show what is installed, how the last run ended, and whether something needs a restart
    Status {
        /// Compare the machine with what the vendor has validated, package by package and file by file
        #[arg(long)]
        drift: bool,
    },
    /// Show the past runs, the last one first
    History,
    /// Go back to how the machine was before the last upgrade, or before the one that was cut short
    Rollback,
    /// Complete a run that was cut short, or undo it; started when the machine boots
    #[command(name = RESUME, hide = true)]
    Resume,
    /// Do the work of a run whose question was answered; started by the run itself
    #[command(name = WORK, hide = true)]
    Work,
}

impl Options {
    /// How far the run is meant to go.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match (self.dry_run, self.download_only) {
            (true, _) => Mode::DryRun,
            (false, true) => Mode::DownloadOnly,
            (false, false) => Mode::Upgrade,
        }
    }

    /// True if this process does the work of a run that another has begun: nobody sees what it prints.
    #[must_use]
    pub fn works(&self) -> bool {
        matches!(self.verb, Some(Verb::Work))
    }

    /// True for a verb that only reads the state of the machine.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        matches!(self.verb, Some(Verb::Status { .. } | Verb::History))
    }

    /// Where people read what happens.
    #[must_use]
    pub fn screen(&self) -> Box<dyn Write> {
        if self.json { Box::new(stderr()) } else { Box::new(stdout()) }
    }
}

/// What both programs work with.
#[derive(Debug)]
pub struct Context<'a> {
    /// Whose upgrader this is.
    pub paths: &'a Paths,
    /// What the person asked for.
    pub options: &'a Options,
    /// The admin's settings.
    pub config: &'a Config,
}

/// Prints a document for programs.
pub fn print_json(document: &impl serde::Serialize) {
    if let Ok(text) = serde_json::to_string_pretty(document) {
        let _ = writeln!(stdout(), "{text}");
    }
}
