//! The process that works, once nobody needs to be there any more.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::context::WORK;
use crate::output::stream::Follower;
use crate::paths::Paths;
use crate::system::command::{PASSED_ON, Program};
use crate::system::lock::Lock;
use crate::system::systemd;

/// How long the worker may take to come up, in steps of [`STEP`].
const PATIENCE: u32 = 150;
const STEP: Duration = Duration::from_millis(200);

/// How many units of earlier runs may be in the way.
const UNITS: u32 = 9;

/// True if systemd runs this machine (`sd_booted(3)`).
#[must_use]
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The transient unit to work in: `NAME-upgrade-run.service`, or the first of `-run-2` … that systemd does not know. It knows
/// those in which something still runs that a hook of an earlier run has left.
fn free_unit(paths: &Paths) -> Result<String> {
    let names = (1..=UNITS).map(|number| {
        let tail = if number == 1 { String::new() } else { format!("-{number}") };
        format!("{}-run{tail}.service", paths.package())
    });
    let names: Vec<String> = names.collect();
    let known = systemd::show(&names)?;
    let free = names.into_iter().zip(known).find(|(_, unit)| unit.load == "not-found");
    free.map(|(name, _)| name).context("what earlier runs have left is still running in too many units")
}

/// The unit that this process runs in, from its control group (cgroups(7): the last part of the path, whatever the version).
#[must_use]
pub fn own_unit(paths: &Paths) -> String {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut units = groups.lines().filter_map(|line| line.rsplit_once('/')).map(|(_, unit)| unit);
    let unit = units.find(|unit| unit.ends_with(".service")).map(str::to_owned);
    unit.unwrap_or_else(|| format!("{}-run.service", paths.package()))
}

/// Lets a transient systemd unit go on with the run: whatever becomes of this process and its terminal, the work is done.
///
/// The unit gets the lock as its stdin, so that it is never free in between; the run is known to it from its recording. Gives
/// back once the worker has recorded something, which `follower`, at the end of the recording now, will read next.
///
/// # Errors
/// If no such unit can be started: then nothing has happened, and this process still holds the lock.
pub fn start(paths: &Paths, lock: &Lock, follower: &mut Follower) -> Result<()> {
    let log = File::options().append(true).create(true).mode(0o640).open(paths.log()).context("the log")?;
    let (name, unit) = (paths.package(), free_unit(paths)?);
    let mut systemd_run = Program::new("systemd-run")
        .setting("--quiet")
        .arg("--pipe")
        .arg("--collect")
        .arg("--service-type=exec")
        .arg(format!("--unit={unit}"))
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
    let mut child = systemd_run.setting("--").arg(paths.real_program()).arg(WORK).spawn(lock.share()?, log)?;
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
