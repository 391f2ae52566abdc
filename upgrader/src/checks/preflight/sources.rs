//! Checks the package sources: releases, signatures, and whether one offers the product.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Finding;
use crate::config::product::Product;
use crate::system::apt::{self, Source};

/// What Debian appends to the codename of a release for the suites that belong to it.
const BELONGS: [&str; 5] = ["-security", "-updates", "-backports", "-backports-sloppy", "-proposed-updates"];

/// Checks the package sources.
pub(super) fn check(product: &Product) -> Result<Vec<Finding>> {
    let mut findings = judge(&apt::sources()?);
    let package = &product.version_package;
    let versions = apt::versions(package)?;
    if !versions.is_offered {
        findings.push(Finding::fatal(
            format!("no package source offers {package}, so the next version of {} is not known", product.name),
            format!("Add the source of {} to /etc/apt/sources.list.d, or fix it there.", product.name),
        ));
    }
    if let Some((newest, candidate)) = versions.passed_over.zip(versions.candidate) {
        findings.push(Finding::note(
            format!("there is {package} {newest}, but apt was told to prefer {candidate}"),
            format!("If that is not meant, look for it in /etc/apt/preferences.d: `apt-cache policy {package}` shows the priorities."),
        ));
    }
    Ok(findings)
}

fn judge(sources: &[Source]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = sources
        .iter()
        .filter(|source| !source.trusted)
        .map(|source| {
            // apt refuses to install from an unsigned source; the admin should know of it.
            Finding::note(
                format!("the package source {} is not signed with a key that this machine trusts", source.name),
                "Remove it from /etc/apt/sources.list.d, or install the key of its publisher.",
            )
        })
        .collect();
    let releases: BTreeSet<&str> = sources
        .iter()
        .filter(|source| source.origin == "Debian" && !source.codename.is_empty())
        .map(|source| BELONGS.iter().find_map(|tail| source.codename.strip_suffix(tail)).unwrap_or(&source.codename))
        .collect();
    if releases.len() > 1 {
        let releases = releases.into_iter().collect::<Vec<_>>().join(" and ");
        findings.push(Finding::note(
            format!("packages come from more than one release of Debian: {releases}"),
            "If that is not meant, remove the sources of one of them from /etc/apt/sources.list.d.",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(codename: &str, trusted: bool) -> Source {
        Source {
            name: format!("http://d {codename}"),
            codename: codename.to_owned(),
            origin: "Debian".to_owned(),
            trusted,
        }
    }

    #[test]
    fn one_release_with_its_updates_is_fine_and_two_releases_are_noted() {
        let mut sources =
            vec![source("bookworm", true), source("bookworm-security", true), source("bookworm-updates", true)];
        assert_eq!(judge(&sources), []);
        sources.push(source("trixie-backports", true));
        let findings = judge(&sources);
        assert!(!findings[0].fatal && findings[0].what.ends_with("bookworm and trixie"), "{findings:?}");
    }

    #[test]
    fn an_unsigned_source_is_noted() {
        let findings = judge(&[source("bookworm", false)]);
        assert!(!findings[0].fatal && findings[0].what.contains("http://d bookworm"), "{findings:?}");
    }
}
