//! A machine of a product that comes in pairs: its role, and the version on the other node.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a machine is in a pair, by the word that the product's command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It does the work. It is upgraded last.
    Active,
    /// It takes over when the active node fails. It is upgraded first.
    Passive,
    /// There is no other node.
    Alone,
}

impl Role {
    /// Every role there is.
    pub const ALL: [Self; 3] = [Self::Active, Self::Passive, Self::Alone];

    /// The role of the other node.
    #[must_use]
    pub fn of_the_other(self) -> Self {
        match self {
            Self::Active => Self::Passive,
            Self::Passive => Self::Active,
            Self::Alone => Self::Alone,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A machine of a product that comes in pairs, as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it is.
    pub role: Role,
    /// The version that is installed on the other node; none if there is none, or if it could not be asked.
    #[serde(default)]
    pub peer_version: Option<String>,
    /// Why the other node could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_silent: Option<String>,
}

impl fmt::Display for Node {
    /// `passive; the active one runs 1.2.1`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = self.role.of_the_other();
        match (self.role, &self.peer_version) {
            (Role::Alone, _) => write!(f, "alone, without another one"),
            (role, Some(version)) => write!(f, "{role}; the {other} one runs {version}"),
            (role, None) => write!(f, "{role}; the {other} one cannot be asked"),
        }
    }
}
