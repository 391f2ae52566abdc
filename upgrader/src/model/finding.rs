//! The findings of the preflight checks.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::exit::remedy_of;

/// Something about the machine that is not as it should be for an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// True if the upgrade is refused until the admin fixes it.
    pub fatal: bool,
    /// What it is, without a full stop.
    pub what: String,
    /// What to do about it: sentences.
    pub remedy: String,
}

impl Finding {
    /// A problem that stops the upgrade.
    pub fn fatal(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { fatal: true, what: what.into(), remedy: remedy.into() }
    }

    /// Something that the admin should know; the upgrade goes on.
    pub fn note(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { fatal: false, what: what.into(), remedy: remedy.into() }
    }
}

impl From<&anyhow::Error> for Finding {
    /// What stopped a look.
    fn from(error: &anyhow::Error) -> Self {
        Self::fatal(format!("{error:#}"), remedy_of(error).unwrap_or("Fix what this names, then start again."))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", if self.fatal { "problem" } else { "note" }, self.what)
    }
}
