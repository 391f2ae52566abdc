//! Machines for packages of strangers: root of the machine is an ordinary user of this host.
//!
//! A machine needs `SYS_ADMIN`, with which root of an ordinary container becomes root of its host. In a user namespace it does not. Docker has
//! user namespaces for all containers of a daemon or for none, so such machines have an engine of their own.

use std::env;
use std::ffi::OsStr;

use anyhow::{Context as _, Result, bail, ensure};
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::InspectContainerOptions;

use crate::command;
use crate::data::tree;
use crate::machines::engine::Engine;
use crate::machines::image::Image;
use crate::runtime::block_on;

/// Starts and stops the engine.
const SCRIPT: &str = "images/isolated-engine.sh";

/// Where it listens, for `DOCKER_HOST`.
const ADDRESS: &str = "unix:///run/xivo-isolated.sock";

/// What replaces the entry point of a machine's image: it also waits until the cgroup of the container belongs to its root.
pub(super) const BOOT: &str = "umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
until [ -O /sys/fs/cgroup/cgroup.procs ]; do sleep 0.01; done
exec /sbin/init";

/// How many processes and threads an isolated machine may have.
pub(super) const PROCESSES: i64 = 16_384;

/// Makes sure that the machines of this process are isolated from the host. If the engine does not isolate them, starts one that does, gives it
/// these images, and executes this program again with `DOCKER_HOST` naming it.
///
/// # Errors
/// If there is no such engine on this host; the error says what to do.
pub fn require(images: &[Image]) -> Result<()> {
    let usual = Engine::connect()?;
    if usual.isolates()? {
        return Ok(());
    }
    let isolated = start(images, &usual).context(
        "the packages cannot be isolated from this host. See \"What is trusted\" in docs/gate.md; on a host to throw away, use --trusted",
    )?;
    Err(command::replace_this([("DOCKER_HOST", OsStr::new(isolated))]))
}

/// Starts the engine, if it does not answer, and copies images to it.
fn start(images: &[Image], usual: &Engine) -> Result<&'static str> {
    ensure!(
        env::var_os("DOCKER_HOST").is_none_or(|value| value.is_empty()),
        "the engine at DOCKER_HOST has no user namespaces"
    );
    command::output(&tree(SCRIPT), [OsStr::new("start")])?;
    let engine = Engine::at(ADDRESS)?;
    ensure!(engine.isolates()?, "the engine at {ADDRESS} has no user namespaces");
    for image in images {
        image.make_once(&engine, || image.copy(usual, &engine))?;
    }
    Ok(ADDRESS)
}

/// The isolated engine of this host, if it answers.
#[must_use]
pub fn engine() -> Option<Engine> {
    Engine::at(ADDRESS).ok()
}

/// Stops the isolated engine of this host.
pub fn stop() -> Result<()> {
    command::run(&tree(SCRIPT), [OsStr::new("stop")])
}

/// Gives the cgroup of a container to its root, so that systemd can use it.
pub(super) fn give_cgroup(docker: &Docker, container: &str) -> Result<()> {
    let found = block_on(docker.inspect_container(container, None::<InspectContainerOptions>))?;
    let Some(process) = found.state.and_then(|state| state.pid).filter(|process| *process > 0) else {
        bail!("the machine's container has ended");
    };
    // Another host has other processes.
    let cgroups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    ensure!(
        cgroups.contains(container),
        "an engine with user namespaces must be on this host: the machine's process 1 is not"
    );
    command::run(&tree(SCRIPT), [OsStr::new("cgroup"), OsStr::new(&process.to_string())])
}
