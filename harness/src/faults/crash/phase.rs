//! The phases of an upgrade in which faults are injected.

use serde::{Deserialize, Serialize};

/// While this file exists, the unit at boot does not resume a run.
pub(super) const NO_RESUME_AT_BOOT: &str = "/var/lib/crash/no-resume";

/// What a machine is doing when a fault is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// It is upgraded.
    Run,
    /// A run was interrupted while packages changed; the admin starts the upgrader again.
    Resume,
    /// The same, and the unit at boot starts.
    Boot,
    /// A maintainer script failed, and the rollback was interrupted at its beginning; the admin starts the upgrader again.
    Back,
    /// It has a database, which is migrated.
    Migration,
}

impl Phase {
    /// Those in which system calls are counted.
    pub(super) const COUNTED: [Self; 4] = [Self::Run, Self::Resume, Self::Boot, Self::Back];

    /// Its word in the names of injection points: `run`.
    pub(super) fn key(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The unit in which the upgrader works, and its verb there.
    pub(super) fn unit(self) -> (&'static str, &'static str) {
        match self {
            Self::Boot => ("xivo-upgrade-resume.service", ::upgrader::context::RESUME),
            _ => ("xivo-upgrade-run.service", ::upgrader::context::WORK),
        }
    }
}
