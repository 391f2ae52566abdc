//! How the packages of a plan compare with those that the vendor has validated.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a plan compares with what was validated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validation {
    /// The release of Debian on which the candidate version was validated; none if that version was not.
    pub debian: Option<String>,
    /// The versions that were validated.
    pub versions: Vec<String>,
    /// How many packages of the machine, as it will be, were validated in whatever version, or would come with the upgrade.
    pub packages: usize,
    /// Those of them that will differ from what was validated, in order of their names.
    pub differing: Vec<PackageDifference>,
}

/// A package that is not as it was validated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageDifference {
    /// The package.
    pub package: String,
    /// The version that it has, or will have.
    pub version: String,
    /// The version that was validated; if it is the same, then with other content. None if it was in none.
    pub validated: Option<String>,
}

impl fmt::Display for PackageDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { package, version, validated } = self;
        match validated {
            None => write!(f, "{package} {version}, which is not part of it"),
            Some(same) if same == version => write!(f, "{package} {version}, with other content"),
            Some(other) => write!(f, "{package} {version} instead of {other}"),
        }
    }
}

impl Validation {
    /// How many packages are as they were validated.
    pub fn same(&self) -> usize {
        self.packages.saturating_sub(self.differing.len())
    }
}
