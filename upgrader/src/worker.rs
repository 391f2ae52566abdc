use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command::{PASSED_ON, Program};
use crate::lock::Lock;
use crate::paths::Paths;
use crate::stream::Follower;
use crate::systemd;

/// The argument that makes the real program the one that works.
pub const VERB: &str = "work";

/// How long the worker may take to come up, in steps of [`STEP`].
const PATIENCE: u32 = 150;
const STEP: Duration = Duration::from_millis(200);

/// True if systemd runs this machine (`sd_booted(3)`).
#[must_use]
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The transient unit that works.
#[must_use]
pub fn unit(paths: &Paths) -> String {
    format!("{}-run.service", paths.package())
}

/// Lets a transient systemd unit go on with the run: whatever becomes of this process and its terminal, the work is done.
///
/// The unit gets the lock as its stdin, so that it is never free in between; the run is known to it from its recording. Gives
/// back once the worker has recorded something, which `follower`, at the end of the recording now, will read next.
///
/// # Errors
/// If no such unit can be started: then nothing has happened, and this process still holds the lock.
pub fn start(paths: &Paths, lock: &Lock, follower: &mut Follower) -> Result<()> {
    let log = File::options().append(true).create(true).open(paths.log()).context("the log")?;
    let name = paths.package();
    let mut systemd_run = Program::new("systemd-run")
        .setting("--quiet")
        .arg("--pipe")
        .arg("--collect")
        .arg("--service-type=exec")
        .arg(format!("--unit={}", unit(paths)))
        .arg(format!("--description=The upgrade that {name} has begun"))
        // Whatever a maintainer script or hook leaves running on purpose, and dpkg in the middle of its work, outlives us.
        .setting("--property=KillMode=process")
        .setting("--property=TimeoutStopSec=15min")
        // One greedy hook that the kernel kills is a failed hook, not a failed upgrade.
        .setting("--property=OOMPolicy=continue");
    for variable in PASSED_ON {
        if std::env::var_os(variable).is_some() {
            systemd_run = systemd_run.setting(format!("--setenv={variable}"));
        }
    }
    let mut child = systemd_run.setting("--").arg(paths.real_program()).arg(VERB).spawn(lock.share()?, log)?;
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
    systemd::kill(&unit(paths)).context("the worker did not begin in time")?;
    bail!("the worker did not begin in time");
}
