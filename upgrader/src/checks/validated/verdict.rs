//! Compares a plan with the validated sets.

use super::{Comparison, MachinePackage, Set, compare, nearest, present};
use crate::model::finding::Finding;
use crate::model::package::{Offered, Package, native_architecture};
use crate::model::plan::Change;
use crate::model::policy::ValidationPolicy;
use crate::model::validation::{PackageDifference, Validation};

/// Compares what a machine will be with the sets that came with the upgrader: the packages that stay, those that come (`offered`, with
/// their sums), and not those that go. None without any set.
pub(crate) fn judge(
    sets: &[Set],
    candidate: &str,
    upgrader: &str,
    installed: &[Package],
    changes: &[Change],
    offered: &Offered,
) -> Option<Validation> {
    if sets.is_empty() {
        return None;
    }
    let machine = afterwards(present(installed, upgrader), native_architecture(installed), changes, offered);
    let versions = sets.iter().map(|set| set.version.clone()).collect();
    let Some(set) = nearest(sets, candidate, &machine) else {
        return Some(Validation { versions, ..Validation::default() });
    };
    let mut verdict = Validation { debian: Some(set.debian.clone()), versions, ..Validation::default() };
    for here in &machine {
        let difference = match compare(set, here) {
            Comparison::Same => None,
            Comparison::Differs(difference) => Some(difference),
            // The plan installs this package, so it is not one of the admin's own.
            Comparison::None if here.is_new => {
                Some(PackageDifference { package: here.name.clone(), version: here.version.clone(), validated: None })
            }
            Comparison::None => continue,
        };
        verdict.packages += 1;
        verdict.differing.extend(difference);
    }
    verdict.differing.sort_by(|one, other| one.package.cmp(&other.package));
    Some(verdict)
}

/// What a machine will be.
fn afterwards(
    mut machine: Vec<MachinePackage>,
    native: &str,
    changes: &[Change],
    offered: &Offered,
) -> Vec<MachinePackage> {
    for change in changes {
        let is_it = |here: &MachinePackage| change.package.is_of(&here.name, &here.architecture, native);
        let was_there = machine.iter().any(is_it);
        machine.retain(|here| !is_it(here));
        if let Some(version) = change.new_version() {
            let offer = offered.find(&change.package, native);
            machine.push(MachinePackage {
                name: change.package.bare().to_owned(),
                architecture: offer.map_or_else(
                    || change.package.architecture().unwrap_or(native).to_owned(),
                    |offer| offer.architecture.clone(),
                ),
                version: version.to_owned(),
                sha256: offer.and_then(|offer| offer.sha256.clone()),
                is_new: !was_there,
            });
        }
    }
    machine
}

/// What stands against a plan with this verdict.
pub(crate) fn check_plan(
    rule: ValidationPolicy,
    product: &str,
    candidate: &str,
    verdict: Option<&Validation>,
) -> Option<Finding> {
    if rule != ValidationPolicy::Require {
        return None;
    }
    let what = match verdict {
        None => format!(
            "nothing says which packages the {product} team has validated, and without that there is no upgrade here"
        ),
        Some(Validation { debian: None, versions, .. }) => {
            format!("the {product} team has validated {}, and not {candidate}", versions.join(", "))
        }
        Some(Validation { differing, packages, .. }) if !differing.is_empty() => {
            let named: Vec<String> = differing.iter().map(ToString::to_string).collect();
            format!(
                "{} of {packages} packages would not be what the {product} team has validated: {}",
                differing.len(),
                named.join("; ")
            )
        }
        Some(_) => return None,
    };
    let remedy = "Wait until the package sources and the upgrader agree, or ask the vendor. `validated = \"warn\"` in the settings \
                  upgrades all the same.";
    Some(Finding::fatal(what, remedy))
}

#[cfg(test)]
mod tests {
    use super::super::tests::set;
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package::installed(name, "all", version)
    }

    fn offered(text: &str) -> Offered {
        Offered::of(text.lines().map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut word = || words.next().expect("a word");
            (
                word(),
                crate::model::package::Offer { architecture: word(), installed_size: 1, size: 1, sha256: Some(word()) },
            )
        }))
    }

    #[test]
    fn what_was_validated_and_what_was_not_are_told_apart() {
        let sets = [set("2", "bookworm", &[("acme", "2"), ("libacme", "2"), ("store", "5"), ("held", "2")])];
        let machine = [
            package("acme", "1"),
            package("store", "5"),
            package("held", "1"),
            package("vim", "9"),
            package("acme-upgrade", "1"),
            package("old", "1"),
        ];
        let changes = [
            Change::upgrade("acme", "1", "2"),
            Change::install("libacme", "2"),
            Change::upgrade("vim", "9", "10"),
            Change::install("extra", "1"),
            Change::remove("old", "1"),
        ];
        let judged =
            |offered: &Offered| judge(&sets, "2", "acme-upgrade", &machine, &changes, offered).expect("there is a set");
        let good = judged(&offered("acme all a\nlibacme all a\nvim all b\nextra all b"));
        assert_eq!((good.packages, good.same()), (5, 3), "{good:?}");
        let said: Vec<String> = good.differing.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["extra 1, which is not part of it", "held 1 instead of 2"]);
        let other = judged(&offered("acme all a\nlibacme all b\nvim all b\nextra all b"));
        assert_eq!(other.differing[2].to_string(), "libacme 2, with other content");
    }

    #[test]
    fn an_upgrade_is_refused_only_if_validation_is_required() {
        let sets = [set("2", "bookworm", &[("acme", "2")])];
        let machine = [package("acme", "1")];
        let verdict = |candidate: &str, sum: &str| {
            judge(
                &sets,
                candidate,
                "acme-upgrade",
                &machine,
                &[Change::upgrade("acme", "1", candidate)],
                &offered(&format!("acme all {sum}")),
            )
        };
        let said = |rule, candidate: &str, verdict: Option<&Validation>| {
            check_plan(rule, "Acme", candidate, verdict).map_or_else(String::new, |finding| finding.to_string())
        };
        assert_eq!(said(ValidationPolicy::Require, "2", verdict("2", "a").as_ref()), "");
        assert_eq!(said(ValidationPolicy::Warn, "2", verdict("2", "b").as_ref()), "");
        insta::assert_snapshot!([
            said(ValidationPolicy::Require, "2", verdict("2", "b").as_ref()),
            said(ValidationPolicy::Require, "3", verdict("3", "a").as_ref()),
            said(ValidationPolicy::Require, "3", None),
        ]
        .join("\n"), @r#"
        problem: 1 of 1 packages would not be what the Acme team has validated: acme 2, with other content
        problem: the Acme team has validated 2, and not 3
        problem: nothing says which packages the Acme team has validated, and without that there is no upgrade here
        "#);
    }
}
