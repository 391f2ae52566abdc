//! The conffiles that the admin has edited, and what an upgrade did to conffiles. Values only; [`crate::system::conffiles`] reads the files.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::policy::ConffilePolicy;

/// A conffile that the admin has edited or removed, and the policy for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditedConffile {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is.
    pub package: String,
    /// True if it was removed.
    pub deleted: bool,
    /// What will become of it.
    pub policy: ConffilePolicy,
}

/// What became of a conffile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConffileResult {
    /// Where it is.
    pub path: PathBuf,
    /// What became of it.
    pub outcome: ConffileOutcome,
    /// Where the other version lies, if there is one.
    pub other: Option<PathBuf>,
    /// The SHA-256 sum in hex before the packages changed; none if there was no file.
    pub sha256_before: Option<String>,
    /// The same after.
    pub sha256_after: Option<String>,
}

/// What becomes of a conffile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConffileOutcome {
    /// The admin's version is kept; the package's version is saved next to it.
    Kept,
    /// The package's version is installed; the admin's version is saved next to it.
    Replaced,
    /// It was not edited, and has the package's new version.
    Updated,
    /// It did not exist before the upgrade.
    New,
    /// The admin had removed it, and the package has installed it again.
    Back,
    /// The upgrade removed it.
    Removed,
}

impl ConffileResult {
    /// True if the admin should check the file: it was replaced, or is not the package's version.
    pub fn wants_a_look(&self) -> bool {
        match self.outcome {
            ConffileOutcome::Kept | ConffileOutcome::Replaced | ConffileOutcome::Back => true,
            ConffileOutcome::Removed => self.other.is_some(),
            ConffileOutcome::Updated | ConffileOutcome::New => false,
        }
    }

    /// The older version and the newer one, where both are on disk.
    pub fn versions(&self) -> Option<(&Path, &Path)> {
        let other = self.other.as_deref()?;
        if self.sha256_before.is_none() || self.sha256_after.is_none() {
            return None;
        }
        Some(if self.outcome == ConffileOutcome::Kept { (&self.path, other) } else { (other, &self.path) })
    }
}

impl fmt::Display for ConffileResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let other = self.other.as_ref().map(|other| other.display());
        match (self.outcome, other) {
            (ConffileOutcome::Kept, Some(other)) if self.sha256_after.is_none() => {
                write!(f, "{path} stays removed; the package's version is {other}")
            }
            (ConffileOutcome::Kept, Some(other)) => write!(f, "Kept your {path}; the package's version is {other}"),
            (ConffileOutcome::Kept, None) => write!(f, "Kept your {path}"),
            (ConffileOutcome::Replaced, Some(other)) => {
                write!(f, "Replaced {path} with the package's version; yours is {other}")
            }
            (ConffileOutcome::Replaced, None) => write!(f, "Replaced {path} with the package's version; yours is gone"),
            (ConffileOutcome::Updated, _) => write!(f, "Updated {path} to the package's version"),
            (ConffileOutcome::New, _) => write!(f, "{path} is new"),
            (ConffileOutcome::Back, _) => write!(f, "Restored {path}, which you had removed"),
            (ConffileOutcome::Removed, Some(other)) => write!(f, "Removed {path}; yours is {other}"),
            (ConffileOutcome::Removed, None) => write!(f, "Removed {path}"),
        }
    }
}
