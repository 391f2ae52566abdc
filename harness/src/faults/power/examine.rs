//! Boots a machine from a captured disk, and compares it with the references.

use anyhow::{Context as _, Result};

use super::captured_run::State;
use super::fixture::Fixture;
use crate::machines::disk::Disk;
use crate::machines::machine::Machine;
use crate::observe::inventory::{Inventory, Section};

/// Waits until the unit that resumes a run at boot is done.
const RESUMED: &str =
    "until systemctl show -P ActiveState xivo-upgrade-resume.service | grep -qv activating; do sleep 0.05; done";

/// Counts the files of 0 bytes among those that packages, their scripts and hooks write.
const EMPTY_FILES: &str =
    "find /usr /etc/xivo /var/lib/xivo-hook /var/lib/dpkg/info -type f -size 0 ! -name '.*' 2>/dev/null | wc -l";

/// What is said of a machine that is neither the old nor the upgraded one.
pub(super) const DIVERGED: &str = "DIVERGED";

/// What became of a machine.
#[derive(Debug)]
pub(super) struct Examined {
    /// One word for it.
    pub(super) outcome: &'static str,
    pub(super) differences: Vec<String>,
    /// How many files of 0 bytes there are where the references have none.
    pub(super) empty_files: usize,
}

impl Examined {
    /// The machine could not even be examined, for this reason.
    pub(super) fn failed(reason: String) -> Self {
        Self { outcome: DIVERGED, differences: vec![reason], empty_files: 0 }
    }
}

/// Boots a machine from a state, leaves it to the unit at boot, starts the upgrader at most once, and compares.
///
/// # Errors
/// If it does not boot.
pub(super) fn examine(fixture: &Fixture, state: &State) -> Result<Examined> {
    let disk = Disk::of_capture(&state.capture)?;
    let machine = Machine::boot_disk(disk, &fixture.engine, &fixture.image)?;
    machine.sh(RESUMED)?;
    let mut said = String::new();
    let interrupted = machine.command(&["test", "-e", "/var/lib/xivo-upgrade/journal"]).run()?.exit == 0;
    let mut exit = None;
    if interrupted {
        let transcript = machine.command(&["xivo-upgrade", "--yes"]).run()?;
        exit = Some(transcript.exit);
        said = format!("exit code {}: {}", transcript.exit, transcript.screen.lines().last().unwrap_or_default());
    }
    let now = Inventory::collect(&machine, &[Section::Files])?;
    let empty_files = machine.sh(EMPTY_FILES)?.trim().parse().context("wc")?;
    let (to_old, to_upgraded) = (now.differences(&fixture.old), now.differences(&fixture.upgraded));
    let is_old = to_old.is_empty() && !matches!(exit, Some(0 | 6));
    if to_upgraded.is_empty() && !matches!(exit, Some(1 | 4)) {
        return Ok(Examined { outcome: "completed", differences: Vec::new(), empty_files });
    }
    if is_old && !state.after_success {
        return Ok(Examined { outcome: "rolled back", differences: Vec::new(), empty_files });
    }
    let nearest = if state.after_success || to_upgraded.len() <= to_old.len() { to_upgraded } else { to_old };
    let differences = [said].into_iter().filter(|said| !said.is_empty()).chain(nearest).collect();
    Ok(Examined { outcome: DIVERGED, differences, empty_files })
}
