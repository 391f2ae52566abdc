//! The changelog of the Debian package (deb-changelog(5)), made of the newest version in CHANGELOG.md.

use anyhow::{Context, Result};
use jiff::civil::Date;

use crate::packages::manual::wrapped;

/// The newest version of a text in the format of Keep a Changelog, as an entry of a Debian changelog.
///
/// The package may have another version, such as that of a vendor's product.
pub(super) fn newest(text: &str, package: &str, version: &str, maintainer: &str) -> Result<String> {
    let mut versions = text.split("\n## [").skip(1).filter_map(|section| section.split_once("] - "));
    let (_, section) = versions.next().context("CHANGELOG.md has no version with a date")?;
    let (date, body) = section.split_once('\n').context("CHANGELOG.md: the newest version has no entries")?;
    let date: Date = date.trim().parse().with_context(|| format!("CHANGELOG.md: {date:?} is not a date"))?;
    let entries: String = body.lines().filter_map(|line| line.strip_prefix("- ")).map(entry).collect();
    let date = date.strftime("%a, %d %b %Y 00:00:00 +0000");
    Ok(format!("{package} ({version}) unstable; urgency=medium\n\n{entries}\n -- {maintainer}  {date}\n"))
}

/// One entry, in lines of up to 80 characters.
fn entry(text: &str) -> String {
    format!("  * {}\n", wrapped(text, 76).join("\n    "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_becomes_an_entry_of_the_package() {
        let text = format!(
            "# A\n\n## [Unreleased]\n- not yet\n\n## [2.0.0] - 2026-11-29\n### Added\n- one\n- {}\n\n## [1.0.0] - 2025-01-01\n- old\n",
            "abc ".repeat(25)
        );
        let made = newest(&text, "acme-upgrade", "7", "Acme <a@acme.example>").unwrap();
        let long = ["abc"; 19].join(" ");
        let expected = format!(
            "acme-upgrade (7) unstable; urgency=medium\n\n  * one\n  * {long}\n    abc abc abc abc abc abc\n\n \
             -- Acme <a@acme.example>  Sun, 29 Nov 2026 00:00:00 +0000\n"
        );
        assert_eq!(made, expected);
    }

    #[test]
    fn the_changelog_of_this_tree_has_the_version_of_this_tree() {
        let text = include_str!("../../../../CHANGELOG.md");
        assert!(text.contains(&format!("\n## [{}] - ", super::super::VERSION)), "add the version to CHANGELOG.md");
        assert!(newest(text, "a", "1", "b").unwrap().lines().all(|line| line.len() <= 80));
    }
}
