//! Compares the machine with the validated set of the installed version (`status --drift`).

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

use super::{Comparison, Set, compare, nearest, present};
use crate::model::package::Package;
use crate::model::validation::PackageDifference;
use crate::system::dpkg;

/// Machines often exclude files below these paths (`path-exclude` of dpkg(1)).
const LEFT_OUT: [&str; 5] =
    ["/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/", "/usr/share/lintian/"];

/// How a machine differs from what was validated of the version that is installed.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// The release of Debian on which that version was validated; none if it was not.
    pub debian: Option<String>,
    /// The number of packages of the machine that are in the set, in any version.
    pub packages: usize,
    /// The packages that differ from the set.
    pub differing: Vec<PackageDifference>,
    /// Packages of the product in the set that the machine lacks.
    pub missing: Vec<String>,
    /// Packages of the machine that are not in the set: the admin's own, and leftovers of earlier versions.
    pub beside: Vec<String>,
    /// Modified or missing files of validated packages.
    pub changed_files: Vec<String>,
    /// Edited conffiles of validated packages.
    pub edited_conffiles: Vec<String>,
}

impl Drift {
    /// Compares only packages, which is fast.
    pub(crate) fn of_packages(sets: &[Set], version: &str, upgrader: &str, installed: &[Package]) -> Self {
        let machine = present(installed, upgrader);
        let Some(set) = nearest(sets, version, &machine) else { return Self::default() };
        let mut drift = Self { debian: Some(set.debian.clone()), ..Self::default() };
        for here in &machine {
            match compare(set, here) {
                Comparison::None => drift.beside.push(here.name.clone()),
                Comparison::Same => drift.packages += 1,
                Comparison::Differs(difference) => {
                    drift.packages += 1;
                    drift.differing.push(difference);
                }
            }
        }
        let is_here = |name: &str| machine.iter().any(|here| here.name == name);
        let missing = set.packages.iter().filter(|member| !is_here(&member.name) && member.name != upgrader);
        drift.missing = missing.map(|member| format!("{} {}", member.name, member.version)).collect();
        drift
    }

    /// Compares packages and reads all of their files.
    pub(crate) fn of_machine(sets: &[Set], version: &str, upgrader: &str) -> Result<Self> {
        let installed = dpkg::packages()?;
        let mut drift = Self::of_packages(sets, version, upgrader, &installed);
        if drift.debian.is_none() {
            return Ok(drift);
        }
        let validated = present(&installed, upgrader).into_iter().map(|here| here.name);
        for modified in dpkg::modified(validated.filter(|name| !drift.beside.contains(name)))? {
            if modified.is_conffile {
                drift.edited_conffiles.push(modified.path);
            } else if !LEFT_OUT.iter().any(|left_out| modified.path.starts_with(left_out)) {
                drift.changed_files.push(modified.path);
            }
        }
        Ok(drift)
    }

    /// True if the machine differs from the set. Edited conffiles and packages of the admin do not count.
    pub fn is_one(&self) -> bool {
        self.debian.is_none()
            || !self.differing.is_empty()
            || !self.missing.is_empty()
            || !self.changed_files.is_empty()
    }

    /// Renders the comparison for the admin.
    pub(crate) fn show(&self, product: &str, version: &str, out: &mut dyn Write) -> io::Result<()> {
        let Some(debian) = &self.debian else {
            return writeln!(out, "Nothing says which packages of {product} {version} were validated");
        };
        let same = self.packages.saturating_sub(self.differing.len());
        writeln!(out, "As the {product} team validated {version} on {debian}: {same} of {} packages", self.packages)?;
        for difference in &self.differing {
            writeln!(out, "  {difference}")?;
        }
        list(out, "Not here", &self.missing)?;
        list(out, "Files that are not what their packages brought", &self.changed_files)?;
        list(out, "Configuration files that were edited", &self.edited_conffiles)?;
        if !self.beside.is_empty() {
            writeln!(out, "Not in the validated set ({}): {}", self.beside.len(), self.beside.join(" "))?;
        }
        Ok(())
    }
}

/// Writes a title and a line for each entry; nothing without entries.
fn list(out: &mut dyn Write, title: &str, lines: &[String]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "{title}:")?;
    lines.iter().try_for_each(|line| writeln!(out, "  {line}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::set;
    use super::*;

    #[test]
    fn what_a_machine_lacks_has_beside_and_has_otherwise_is_said() {
        let sets = [set("2", "bookworm", &[("acme", "2"), ("libacme", "2"), ("store", "5")])];
        let machine = [
            Package::installed("acme", "all", "2"),
            Package::installed("acme-upgrade", "all", "1"),
            Package { status: "config-files".to_owned(), ..Package::installed("libacme", "all", "2") },
            Package::installed("store", "all", "4"),
            Package::installed("vim", "all", "9"),
        ];
        let mut drift = Drift::of_packages(&sets, "2", "acme-upgrade", &machine);
        drift.changed_files.push("/usr/bin/acme".to_owned());
        assert!(drift.is_one());
        let mut out = Vec::new();
        drift.show("Acme", "2", &mut out).expect("written");
        insta::assert_snapshot!(String::from_utf8(out).expect("text"), @r#"
        As the Acme team validated 2 on bookworm: 1 of 2 packages
          store 4 instead of 5
        Not here:
          libacme 2
        Files that are not what their packages brought:
          /usr/bin/acme
        Not in the validated set (1): vim
        "#);
        let same = Drift::of_packages(&[set("2", "bookworm", &[("acme", "2")])], "2", "acme-upgrade", &machine[..2]);
        assert!(!same.is_one() && same.packages == 1, "{same:?}");
        assert!(Drift::of_packages(&sets, "3", "acme-upgrade", &machine).is_one(), "nothing is known of 3");
    }
}
