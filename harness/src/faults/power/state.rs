//! What was on the disk of a machine at one moment, and a machine that boots from it.

use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result};

use super::fixture::Fixture;
use crate::machines::disk::{Capture, Disk};
use crate::machines::machine::Machine;

/// The upgrader's journal, below the root of the disk.
pub(super) const JOURNAL: &str = "var/lib/xivo-upgrade/journal";

/// The upgrader's log, below the root of the disk.
pub(super) const LOG: &str = "var/log/xivo-upgrade.log";

/// The unit that resumes a run at boot.
pub(super) const RESUME_UNIT: &str = "xivo-upgrade-resume.service";

/// What was on the disk of a machine at one moment.
#[derive(Debug)]
pub(super) struct State {
    /// What had happened last: `upgrade 3.21 s step-ended packages`.
    pub(super) name: String,
    pub(super) capture: Capture,
    /// True if the run had ended with exit code 0.
    pub(super) after_success: bool,
}

impl State {
    /// Boots a machine from it. The unit at boot resumes an interrupted run.
    ///
    /// # Errors
    /// If it does not boot, or a unit fails.
    pub(super) fn boot(&self, fixture: &Fixture) -> Result<Machine> {
        Machine::boot_disk(Disk::of_capture(&self.capture)?, &fixture.engine, &fixture.image)
    }

    /// The same, but an interrupted run is not resumed yet. The disk has what the state has, and what the boot wrote.
    ///
    /// # Errors
    /// If it does not boot, or a unit fails.
    pub(super) fn boot_without_unit(&self, fixture: &Fixture) -> Result<Machine> {
        let disk = Disk::of_capture(&self.capture)?;
        let mask = disk.path().join("etc/systemd/system").join(RESUME_UNIT);
        symlink("/dev/null", &mask).with_context(|| mask.display().to_string())?;
        let machine = Machine::boot_disk(disk, &fixture.engine, &fixture.image)?;
        // The mask must not be in what is captured from now on.
        machine.sh(&format!("rm /etc/systemd/system/{RESUME_UNIT}; systemctl daemon-reload; sync"))?;
        Ok(machine)
    }
}
