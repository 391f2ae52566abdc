//! Boots a machine from a captured disk, and compares it with the references.

use anyhow::{Context as _, Result};

use super::fixture::{Fixture, empty_files};
use super::state::{JOURNAL, LOG, State};
use crate::observe::inventory::Inventory;

/// Waits until the unit that resumes a run at boot is done.
const RESUMED: &str =
    "until systemctl show -P ActiveState xivo-upgrade-resume.service | grep -qv activating; do sleep 0.05; done";

/// What the log says each time that the paths of the rollback data were restored.
const RESTORED: &str = " paths restored, ";

/// What is said of a machine that is neither the old nor the upgraded one.
pub(super) const DIVERGED: &str = "DIVERGED";

/// What became of a machine.
#[derive(Debug)]
pub(super) struct Examined {
    /// One word for it.
    pub(super) outcome: &'static str,
    pub(super) differences: Vec<String>,
    /// How often the saved paths were restored.
    pub(super) restores: usize,
    /// How many files of 0 bytes there are where the references have none.
    pub(super) empty_files: usize,
}

impl Examined {
    /// The machine could not even be examined, for this reason.
    pub(super) fn failed(reason: String) -> Self {
        Self { outcome: DIVERGED, differences: vec![reason], restores: 0, empty_files: 0 }
    }
}

/// Who resumes an interrupted run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResumedBy {
    /// The unit at boot; the admin only if that does not end the run.
    Unit,
    /// The admin, with `xivo-upgrade --yes`.
    Admin,
}

/// Boots a machine from a state, has an interrupted run resumed, and compares.
///
/// # Errors
/// If it does not boot.
pub(super) fn examine(fixture: &Fixture, state: &State, resumed_by: ResumedBy) -> Result<Examined> {
    let machine = match resumed_by {
        ResumedBy::Admin => state.boot_without_unit(fixture)?,
        ResumedBy::Unit => state.boot(fixture)?,
    };
    if resumed_by == ResumedBy::Unit {
        machine.sh(RESUMED)?;
    }
    let mut said = String::new();
    let root = machine.disk().context("the machine has no disk")?.path();
    let interrupted = root.join(JOURNAL).exists();
    let mut exit = None;
    if interrupted {
        let transcript = machine.command(&["xivo-upgrade", "--yes"]).run()?;
        exit = Some(transcript.exit);
        said = format!("exit code {}: {}", transcript.exit, transcript.screen.lines().last().unwrap_or_default());
    }
    let now = Inventory::of_disk(&machine)?;
    let empty_files = empty_files(&root)?.saturating_sub(fixture.empty_files);
    let log = std::fs::read(root.join(LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let restores = log.lines().filter(|line| line.contains(RESTORED)).count();
    let (to_old, to_upgraded) = (now.differences(&fixture.old), now.differences(&fixture.upgraded));
    let is_old = to_old.is_empty() && !matches!(exit, Some(0 | 6));
    if to_upgraded.is_empty() && !matches!(exit, Some(1 | 4)) {
        return Ok(Examined { outcome: "completed", differences: Vec::new(), restores, empty_files });
    }
    if is_old && !state.after_success {
        return Ok(Examined { outcome: "rolled back", differences: Vec::new(), restores, empty_files });
    }
    let nearest = if state.after_success || to_upgraded.len() <= to_old.len() { to_upgraded } else { to_old };
    let differences = [said].into_iter().filter(|said| !said.is_empty()).chain(nearest).collect();
    Ok(Examined { outcome: DIVERGED, differences, restores, empty_files })
}
