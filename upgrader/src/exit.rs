//! The exit codes, and errors that say what to do next.

use std::fmt;
use std::io::{Write as _, stderr};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::printable;

/// How a run ended, as the shell sees it. These numbers are a contract with the admin's scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Failed; no package was changed. What pre-upgrade hooks did stays.
    Unchanged = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The question was answered with anything but yes; nothing was changed.
    Declined = 3,
    /// Failed, and everything is as it was before.
    RolledBack = 4,
    /// Failed in the middle and needs a human; what to do is printed.
    NeedsHuman = 5,
    /// Done, but something needs attention.
    Attention = 6,
    /// Another run is under way.
    Busy = 7,
}

impl Exit {
    /// The number the shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> Self {
        exit.code()
    }
}

impl TryFrom<u8> for Exit {
    type Error = String;

    fn try_from(code: u8) -> Result<Self, String> {
        const ALL: [Exit; 8] = [
            Exit::Done,
            Exit::Unchanged,
            Exit::Usage,
            Exit::Declined,
            Exit::RolledBack,
            Exit::NeedsHuman,
            Exit::Attention,
            Exit::Busy,
        ];
        ALL.get(usize::from(code)).copied().ok_or_else(|| format!("{code} is not an exit code of the upgrader"))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An expected failure: what went wrong, and what the admin can do.
///
/// Travels as (the context of) an [`anyhow::Error`]. The exit code follows from the step that failed, unless the failure
/// carries one of its own.
#[derive(Debug)]
#[must_use]
pub struct Failure {
    message: String,
    remedy: Option<String>,
    exit: Option<Exit>,
}

impl Failure {
    /// A failure with a message for the admin: lower case, one line, no full stop.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: None, exit: None }
    }

    /// What the admin can do next, as a sentence.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// An exit code that holds whatever step failed.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = Some(exit);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Adds a message and a remedy for the admin to an error.
pub trait Explain<T> {
    /// Adds a failure to an error that has none: the one nearest to the cause counts.
    fn explain(self, failure: impl FnOnce() -> Failure) -> anyhow::Result<T>;
}

impl<T> Explain<T> for anyhow::Result<T> {
    fn explain(self, failure: impl FnOnce() -> Failure) -> anyhow::Result<T> {
        self.map_err(|error| if error.is::<Failure>() { error } else { error.context(failure()) })
    }
}

/// Why a run stopped: the error, and the exit code that the failed step gives to errors without one of their own.
#[derive(Debug)]
pub struct Stopped {
    /// The error.
    pub error: anyhow::Error,
    /// The exit code of the step.
    pub exit: Exit,
}

impl From<anyhow::Error> for Stopped {
    /// An error before anything was changed.
    fn from(error: anyhow::Error) -> Self {
        Self { error, exit: Exit::Unchanged }
    }
}

/// The exit code of an error: its own, or else `otherwise`.
pub fn code_of(error: &anyhow::Error, otherwise: Exit) -> Exit {
    error.downcast_ref::<Failure>().and_then(|failure| failure.exit).unwrap_or(otherwise)
}

/// What to do about an error, if it knows.
pub fn remedy_of(error: &anyhow::Error) -> Option<&str> {
    error.downcast_ref::<Failure>()?.remedy.as_deref()
}

/// An error as the screen and the log show it: the chain of causes on one line, the remedy on the next. Safe to show.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = printable::line(&format!("error: {error:#}")).into_owned();
    if let Some(remedy) = remedy_of(error) {
        text.push_str("\nWhat to do: ");
        text.push_str(&printable::line(remedy));
    }
    text
}

/// Prints an error to stderr.
pub fn complain(text: &str) {
    // A terminal that went away must not change how the run ends.
    let _ = writeln!(stderr(), "{}", printable::lines(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_shown_with_its_causes_and_its_remedy() {
        let error = anyhow::anyhow!("connection refused")
            .context(Failure::new("the package lists could not be read").remedy("Check the network."));
        assert_eq!(
            describe(&error),
            "error: the package lists could not be read: connection refused\nWhat to do: Check the network."
        );
    }

    #[test]
    fn what_an_error_names_adds_no_line_to_it() {
        let error = anyhow::Error::new(Failure::new("/a\nWhat to do: x").remedy("rm /a\x1b[2J\nb")).context("c\u{9b}");
        assert_eq!(
            describe(&error),
            "error: c\u{fffd}: /a\u{fffd}What to do: x\nWhat to do: rm /a\u{fffd}[2J\u{fffd}b"
        );
    }

    #[test]
    fn the_failure_nearest_to_the_cause_counts() {
        let near: anyhow::Result<()> = Err(Failure::new("locked").remedy("Wait.").into());
        let error = near.explain(|| Failure::new("no lists").remedy("Check the network.")).unwrap_err();
        assert_eq!(describe(&error), "error: locked\nWhat to do: Wait.");
    }

    #[test]
    fn a_failure_keeps_its_own_exit_code_through_more_context() {
        let error = anyhow::Error::new(Failure::new("taken").exit(Exit::Busy)).context("while locking");
        assert_eq!(code_of(&error, Exit::Unchanged), Exit::Busy);
        assert_eq!(code_of(&anyhow::anyhow!("other"), Exit::Unchanged), Exit::Unchanged);
    }
}
