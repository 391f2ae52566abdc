//! Cuts the power again and again while packages change.

use anyhow::{Context as _, Result, ensure};

use super::examine::{ResumedBy, examine};
use super::fixture::Fixture;
use super::state::{LOG, RESUME_UNIT, State};
use crate::machines::disk::Filesystem;
use crate::machines::image::Debian;
use crate::machines::machine::Machine;

/// How often a resumed run restores the saved paths and begins again with the packages.
const ATTEMPTS: usize = 3;

/// Cuts the power four times while packages change: those of the upgrade, and those of each run that resumes it. Then the unit at boot
/// rolls back.
///
/// # Errors
/// If the machine is not the old one, or this host cannot make disks.
pub fn check_repeated(filesystem: Filesystem) -> Result<()> {
    let fixture = Fixture::make(Debian::Bookworm, filesystem)?;
    let world = fixture.world()?;
    let mut state = cut(&world.machine, &["systemd-run", "--no-block", "xivo-upgrade", "--yes"], 0)?;
    for attempt in 1..=ATTEMPTS {
        let machine = state.boot_without_unit(&fixture)?;
        state = cut(&machine, &["systemctl", "start", "--no-block", RESUME_UNIT], attempt)?;
    }
    let examined = examine(&fixture, &state, ResumedBy::Unit)?;
    ensure!(
        examined.outcome == "rolled back" && examined.restores == ATTEMPTS + 1,
        "{filesystem}: {} after {} restores:\n{}",
        examined.outcome,
        examined.restores,
        examined.differences.join("\n")
    );
    Ok(())
}

/// Starts a run, and cuts the power as soon as it has unpacked a package.
fn cut(machine: &Machine, start: &[&str], attempt: usize) -> Result<State> {
    // Without a log it prints nothing.
    let unpacked = format!("grep -cs Unpacking /{LOG}");
    let before: u32 = machine.command(&["sh", "-c", &unpacked]).run()?.screen.trim().parse().unwrap_or_default();
    machine.command(start).exits(0)?;
    machine.wait_until(&format!("[ \"$({unpacked})\" -gt {before} ]"))?;
    let capture = machine.disk().context("the machine has no disk")?.capture()?;
    machine.cut_power()?;
    Ok(State { name: format!("power cut {} in packages", attempt + 1), capture, after_success: false })
}
