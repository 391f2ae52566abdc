//! The process that works, once nobody needs to be there any more.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::context::WORK;
use crate::output::stream::Follower;
use crate::paths::Paths;
use crate::system::command::PASSED_ON;
use crate::system::lock::Lock;
use crate::system::systemd;

/// How long the worker may take to come up, in steps of [`STEP`].
const PATIENCE: u32 = 150;
const STEP: Duration = Duration::from_millis(200);

/// How many units of earlier runs may be in the way.
const UNITS: u32 = 9;

/// The unit that this worker runs in.
pub(crate) fn own_unit(paths: &Paths) -> String {
    systemd::own_unit().unwrap_or_else(|| format!("{}-run.service", paths.package()))
}

/// Lets a transient systemd unit go on with the run: whatever becomes of this process and its terminal, the work is done.
///
/// The unit gets the lock as its stdin, so that it is never free in between; the run is known to it from its recording. Gives
/// back once the worker has recorded something, which `follower`, at the end of the recording now, will read next.
///
/// # Errors
/// If no such unit can be started: then nothing has happened, and this process still holds the lock.
pub(crate) fn start(paths: &Paths, lock: &Lock, follower: &mut Follower) -> Result<()> {
    let log = File::options().append(true).create(true).mode(0o640).open(paths.log()).context("the log")?;
    let name = paths.package();
    let unit = systemd::free_unit(&format!("{name}-run"), UNITS)?;
    let description = format!("The upgrade that {name} has begun");
    let worker = systemd::run(&unit, &description, &PASSED_ON).arg(paths.real_program()).arg(WORK);
    let mut child = worker.spawn(lock.share()?, log)?;
    for _ in 0..PATIENCE {
        if follower.has_more() {
            return Ok(());
        }
        if let Some(status) = child.try_wait().context("systemd-run")? {
            bail!("systemd-run could not start the worker ({status}); {} has its words", paths.log().display());
        }
        follower.wait(STEP);
    }
    let _ = child.kill();
    // One that comes up after all would work beside us: it has the lock as well.
    systemd::kill(&unit).context("the worker did not begin in time")?;
    bail!("the worker did not begin in time");
}
