//! When a hook runs, and how it ended. Finding and running hooks is [`crate::system::hooks`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Before the packages change.
    PreUpgrade,
    /// After the packages have changed, before the services restart.
    PostUpgrade,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookOutcome {
    /// It did what it is for.
    Done,
    /// It has nothing to do on this machine, and says so with an exit code of its own.
    NotApplicable,
    /// It failed. How, in the words that follow "failed": `(exit status: 1): ` and its last lines.
    Failed(String),
}
