//! Checks of the content of a database.

use std::collections::BTreeSet;

use anyhow::Result;

use super::check::Check;
use crate::machines::database::{copy_and_database, dump, migrations};
use crate::machines::machine::Machine;
use crate::packages::release::Release;

/// Whether it still has the content that was dumped before.
pub(super) fn unchanged(before: &str, machine: &Machine) -> Result<Check> {
    Ok(("the database is unchanged", differences(before, &dump(machine)?)))
}

/// Whether it has what a release makes of what it was when it was copied.
pub(super) fn migrated(machine: &Machine, release: &Release) -> Result<Check> {
    let mut findings = Vec::new();
    let applied = migrations(machine)?;
    let applied: Vec<&str> = applied.lines().collect();
    let wanted: Vec<&str> = release.migrations.iter().map(|migration| migration.name.as_str()).collect();
    if applied != wanted {
        findings.push(format!("the migrations {applied:?} were applied, and not {wanted:?}"));
    }
    let [copy, database] = copy_and_database(machine, release)?;
    findings.extend(differences(&copy, &database));
    Ok(("the database has what the migrations of the release make of it, and all that it had", findings))
}

/// Lines that begin with `-` are only in the first, with `+` only in the second.
fn differences(before: &str, now: &str) -> Vec<String> {
    let [before, now] = [before, now].map(|dump| dump.lines().collect::<BTreeSet<_>>());
    let lacking = before.difference(&now).map(|line| format!("- {line}"));
    lacking.chain(now.difference(&before).map(|line| format!("+ {line}"))).collect()
}
