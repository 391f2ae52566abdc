use std::fmt;

use anyhow::Result;

use crate::exit::Failure;
use crate::product::Product;

/// What would change: computed once, shown, confirmed and executed unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The version package's installed version.
    pub installed: String,
    /// The version package's candidate version.
    pub candidate: String,
    /// Every package that changes, in order of its name.
    pub changes: Vec<Change>,
    /// Packages that an interrupted run left unpacked but not configured.
    pub unfinished: Vec<String>,
    /// Packages that have a newer version which the plan leaves alone: held by the admin or kept back by apt.
    pub kept_back: Vec<String>,
    /// What is still to be fetched, in bytes.
    pub download: u64,
    /// The migrations of the database that are pending, first to apply first.
    pub migrations: Vec<String>,
    /// The services that restart, first to start first.
    pub restart: Vec<String>,
}

/// One package that changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The package, with its architecture where apt names one.
    pub package: String,
    /// What becomes of it.
    pub kind: ChangeKind,
}

/// What becomes of a package. Versions are opaque: compared by dpkg and apt, shown as they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Another version replaces the installed one.
    Upgrade {
        /// The installed version.
        from: String,
        /// The version that replaces it.
        to: String,
    },
    /// It is not installed now.
    Install {
        /// The version to come.
        to: String,
    },
    /// It is not installed afterwards.
    Remove {
        /// The installed version.
        from: String,
    },
}

impl Plan {
    /// True if the machine is as new as its sources, and its database as new as the machine.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.changes_packages() && self.migrations.is_empty()
    }

    /// True if it changes packages, or finishes some.
    #[must_use]
    pub fn changes_packages(&self) -> bool {
        !self.changes.is_empty() || !self.unfinished.is_empty()
    }

    /// True if it changes this package.
    #[must_use]
    pub fn changes_package(&self, package: &str) -> bool {
        self.changes.iter().any(|change| change.package == package)
    }

    /// Refuses a plan that would take the product, or the upgrader in the middle of its work, away.
    pub fn check(&self, product: &Product, upgrader: &str) -> Result<()> {
        let needed = |package: &str| {
            package == product.version_package
                || package == upgrader
                || product.packages.protected.iter().any(|p| p == package)
        };
        let lost: Vec<&str> = self
            .changes
            .iter()
            .filter(|change| matches!(change.kind, ChangeKind::Remove { .. }))
            .map(|change| change.package.as_str())
            .filter(|package| needed(package))
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!("apt would remove {}, which {} cannot do without", lost.join(", "), product.name))
            .remedy(
                "See `apt-get -s dist-upgrade` for the reason; often a package from another source stands in the way.",
            )
            .into())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ChangeKind::Upgrade { from, to } => write!(f, "{} {from} -> {to}", self.package),
            ChangeKind::Install { to } => write!(f, "install {} {to}", self.package),
            ChangeKind::Remove { from } => write!(f, "remove {} {from}", self.package),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_with_nothing_but_a_migration_is_not_empty() {
        let nothing = Plan {
            installed: "1".to_owned(),
            candidate: "1".to_owned(),
            changes: Vec::new(),
            unfinished: Vec::new(),
            kept_back: Vec::new(),
            download: 0,
            migrations: Vec::new(),
            restart: Vec::new(),
        };
        assert!(nothing.is_empty());
        let migration = Plan { migrations: vec!["001-a".to_owned()], ..nothing };
        assert!(!migration.is_empty() && !migration.changes_packages());
    }
}
