//! Starts the worker: the process in a systemd unit that performs a run once its question is answered.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::context::WORK;
use crate::files;
use crate::output::stream::Follower;
use crate::paths::Paths;
use crate::system::command::passed_on;
use crate::system::lock::Lock;
use crate::system::systemd;

/// How long the worker may take to start, in steps of [`STEP`].
const TIMEOUT: u32 = 150;
const STEP: Duration = Duration::from_millis(200);

/// How many units of earlier runs may still exist.
const UNITS: u32 = 9;

pub(crate) fn own_unit(paths: &Paths) -> String {
    systemd::own_unit().unwrap_or_else(|| format!("{}-run.service", paths.package()))
}

/// Starts a transient systemd unit that continues the run independently of this process and its terminal.
///
/// The unit gets the lock as its stdin, so that the lock is never free in between, and reads the run from its recording. Returns once
/// the worker has recorded an event, which `follower` (at the end of the recording) reads next.
///
/// # Errors
/// If the unit cannot be started: then this process still holds the lock, and nothing has changed.
pub(crate) fn start(paths: &Paths, lock: &Lock, follower: &mut Follower) -> Result<()> {
    let log = files::append(&paths.log(), 0o640).context("the log")?;
    let name = paths.package();
    let unit = systemd::free_unit(&format!("{name}-run"), UNITS)?;
    let description = format!("The upgrade that {name} has begun");
    let variables: Vec<&str> = passed_on().map(|(name, _)| name).collect();
    let worker = systemd::run(&unit, &description, &variables).arg(paths.real_program()).arg(WORK);
    let mut child = worker.spawn(lock.share()?, log)?;
    for _ in 0..TIMEOUT {
        if follower.has_more() {
            return Ok(());
        }
        if let Some(status) = child.try_wait().context("systemd-run")? {
            bail!("systemd-run could not start the worker ({status}); see {}", paths.log().display());
        }
        follower.wait(STEP);
    }
    let _ = child.kill();
    // A worker that starts later would work beside this process: it has the lock, too.
    systemd::kill(&unit).context("the worker did not start")?;
    bail!("the worker did not start");
}
