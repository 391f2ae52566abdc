//! The plan of an upgrade. It is computed once, shown, confirmed and executed unchanged.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::conffile::EditedConffile;
use crate::model::node::Node;
use crate::model::package::{Package, PackageName, native_architecture};
use crate::model::validation::Validation;

/// What would change: computed once, shown, confirmed and executed unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What the changes add to what is used on disk, in bytes.
    #[serde(default)]
    pub disk: i64,
    /// What the largest of the new packages takes on disk, in bytes.
    #[serde(default)]
    pub largest: u64,
    /// The conffiles that the admin has edited, of packages that change.
    #[serde(default)]
    pub conffiles: Vec<EditedConffile>,
    /// The migrations of the database that are pending, first to apply first.
    #[serde(default)]
    pub migrations: Vec<String>,
    /// The version that the machine comes from, if an earlier run changed its packages and did not come to an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished_from: Option<String>,
    /// The sum of the outages of all services at the last upgrade after which all came up, in milliseconds; none if not known.
    #[serde(default)]
    pub last_outage_ms: Option<u64>,
    /// The services that restart, first to start first.
    pub restart: Vec<String>,
    /// What this machine is, of a product that comes in pairs.
    #[serde(default)]
    pub node: Option<Node>,
    /// How its packages compare with those that the vendor has validated; none if the vendor says nothing of it, or the admin does not ask.
    #[serde(default)]
    pub validated: Option<Validation>,
}

/// One package that changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// The package, with its architecture where apt names one.
    pub package: PackageName,
    /// What becomes of it.
    #[serde(flatten)]
    pub kind: ChangeKind,
    /// How the sources that have the new version are labelled.
    #[serde(default)]
    pub origins: Vec<String>,
}

/// What becomes of a package. Versions are opaque: compared by dpkg and apt, shown as they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
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

#[cfg(test)]
impl Change {
    pub(crate) fn upgrade(package: &str, from: &str, to: &str) -> Self {
        let kind = ChangeKind::Upgrade { from: from.to_owned(), to: to.to_owned() };
        Self { package: package.into(), kind, origins: Vec::new() }
    }

    pub(crate) fn install(package: &str, to: &str) -> Self {
        Self { package: package.into(), kind: ChangeKind::Install { to: to.to_owned() }, origins: Vec::new() }
    }

    pub(crate) fn remove(package: &str, from: &str) -> Self {
        Self { package: package.into(), kind: ChangeKind::Remove { from: from.to_owned() }, origins: Vec::new() }
    }
}

impl Change {
    /// True if the package is then what it is after the other change, whatever it was before.
    pub fn ends_as(&self, other: &Self) -> bool {
        self.package == other.package && self.new_version() == other.new_version()
    }

    /// The version after the change; none if the package is removed.
    pub fn new_version(&self) -> Option<&str> {
        match &self.kind {
            ChangeKind::Upgrade { to, .. } | ChangeKind::Install { to } => Some(to),
            ChangeKind::Remove { .. } => None,
        }
    }
}

impl Plan {
    /// True if the machine is as new as its sources, its database as new as the machine, and no earlier run is to be finished.
    pub fn is_empty(&self) -> bool {
        !self.changes_packages() && self.migrations.is_empty() && self.unfinished_from.is_none()
    }

    /// The version that the machine comes from: before an earlier run that was not finished, if there was one.
    pub fn comes_from(&self) -> &str {
        self.unfinished_from.as_deref().unwrap_or(&self.installed)
    }

    /// True if it changes packages, or finishes some.
    pub fn changes_packages(&self) -> bool {
        !self.changes.is_empty() || !self.unfinished.is_empty()
    }

    /// The packages that another version replaces.
    pub fn upgraded(&self) -> impl Iterator<Item = &str> {
        let upgrade = |change: &&Change| matches!(change.kind, ChangeKind::Upgrade { .. });
        self.changes.iter().filter(upgrade).map(|change| change.package.as_str())
    }

    /// The packages that come, and the version of each.
    pub fn new_versions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.changes.iter().filter_map(|change| Some((change.package.as_str(), change.new_version()?)))
    }

    /// The packages of the plan that are not what they were before it, on a machine with these packages.
    pub fn not_rolled_back(&self, present: &[Package]) -> Vec<&str> {
        let native = native_architecture(present);
        let installed = |name: &PackageName| {
            present
                .iter()
                .find(|package| name.is_of(&package.name, &package.architecture, native) && package.is_present())
        };
        let wrong = self.changes.iter().filter(|change| match &change.kind {
            ChangeKind::Upgrade { from, .. } | ChangeKind::Remove { from } => {
                installed(&change.package).is_none_or(|package| package.version != *from)
            }
            ChangeKind::Install { .. } => installed(&change.package).is_some(),
        });
        wrong.map(|change| change.package.as_str()).collect()
    }

    /// True if it changes this package.
    pub fn changes_package(&self, package: &str) -> bool {
        self.changes.iter().any(|change| change.package == *package)
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
        let nothing = Plan::default();
        assert!(nothing.is_empty());
        let migration = Plan { migrations: vec!["001-a".to_owned()], ..nothing };
        assert!(!migration.is_empty() && !migration.changes_packages());
    }

    #[test]
    fn a_package_for_another_architecture_is_not_the_one_that_stays() {
        let changes =
            vec![Change::upgrade("docs", "1", "2"), Change::upgrade("lib", "1", "2"), Change::install("lib:i386", "2")];
        let plan = Plan { changes, ..Plan::default() };
        let package = Package::installed;
        let before = [package("dpkg", "amd64", "1"), package("docs", "all", "1"), package("lib", "amd64", "1")];
        assert_eq!(plan.not_rolled_back(&before), [""; 0]);
        let [dpkg, docs, lib] = before;
        let after = [dpkg, docs, package("lib", "i386", "2"), lib];
        assert_eq!(plan.not_rolled_back(&after), ["lib:i386"]);
    }

    #[test]
    fn a_plan_to_finish_an_earlier_run_is_not_empty_and_comes_from_where_that_came_from() {
        let plan = Plan { installed: "2".to_owned(), unfinished_from: Some("1".to_owned()), ..Plan::default() };
        assert!(!plan.is_empty() && !plan.changes_packages());
        assert_eq!(plan.comes_from(), "1");
    }
}
