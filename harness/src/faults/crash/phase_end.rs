//! How a phase ends, with or without an injected fault.

use anyhow::Result;

use super::phase::{NO_RESUME_AT_BOOT, Phase};
use crate::machines::machine::Machine;
use crate::machines::transcript::Transcript;
use crate::machines::world::World;

/// How a phase ended.
#[derive(Debug, Default)]
pub(super) struct PhaseEnd {
    /// The exit code, which says what the machine is now; none if the upgrader was killed or had nothing to do.
    pub(super) exit: Option<i64>,
    /// True if the admin does not have to start the upgrader again.
    pub(super) is_over: bool,
    screen: String,
}

impl PhaseEnd {
    /// Starts a phase and waits for its end.
    pub(super) fn of(phase: Phase, world: &World) -> Result<Self> {
        if phase == Phase::Boot {
            let (unit, _) = phase.unit();
            // A unit that fails is a result, too.
            world.machine.sh(&format!("rm -f {NO_RESUME_AT_BOOT}; systemctl start {unit} || :"))?;
            return Self::at_boot(&world.machine);
        }
        let Transcript { screen, exit, .. } = world.upgrade(&["--yes"]).run()?;
        Ok(Self { exit: Some(exit), is_over: matches!(exit, 0 | 1 | 4 | 6), screen })
    }

    /// Waits for the end of the unit at boot.
    pub(super) fn at_boot(machine: &Machine) -> Result<Self> {
        let (unit, _) = Phase::Boot.unit();
        let screen = machine.sh(&format!(
            "until systemctl show -P ActiveState {unit} | grep -qv activating; do sleep 0.05; done
            systemctl show -P ExecMainCode -P ExecMainStatus {unit}"
        ))?;
        Ok(match screen.trim().split_once('\n') {
            // CLD_EXITED (sigaction(2)), and nothing is left to do: a run that had changed nothing is forgotten.
            Some(("1", "0")) => Self { exit: None, is_over: true, screen },
            Some(("1", status)) => Self { exit: Some(status.parse()?), is_over: matches!(status, "4" | "6"), screen },
            // The unit's condition was not met, or it was killed.
            _ => Self { exit: None, is_over: false, screen },
        })
    }
}

impl std::fmt::Display for PhaseEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n[{:?}]\n", self.screen, self.exit)
    }
}
