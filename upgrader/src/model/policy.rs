//! The policies of the vendor and the admin. With them an upgrade asks only one question.

use serde::{Deserialize, Serialize};

/// Which version of an edited conffile an upgrade installs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConffilePolicy {
    /// The package's version; the admin's is saved as `.dpkg-old`.
    #[default]
    Replace,
    /// The admin's version; the package's is saved as `.dpkg-dist`.
    Keep,
}

/// What is done about packages that differ from those that were validated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValidationPolicy {
    /// There is no upgrade to them.
    Require,
    /// They are named.
    #[default]
    Warn,
    /// Nothing.
    Ignore,
}

/// When what a package changes is on the disk, if rollback data is saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncPolicy {
    /// In the background, and all of it at the end of the step.
    #[default]
    Deferred,
    /// After each file, as dpkg does it.
    Each,
}
