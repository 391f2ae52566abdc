//! The process groups of running programs, so that a signal can end them all. Each program leads a session and so a group.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// The time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// The programs that are followed now.
static FOLLOWED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// True once this process ends all programs that it has started.
static LEAVING: AtomicBool = AtomicBool::new(false);

/// Ends every program that is followed. This process must end next: threads that follow one of them stop.
pub(crate) fn end_all() {
    LEAVING.store(true, Ordering::SeqCst);
    for group in followed().iter() {
        let _ = end(*group);
    }
}

fn followed() -> MutexGuard<'static, Vec<Pid>> {
    FOLLOWED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a program that will be followed. Start and registration are one step, so that [`end_all`] misses no program.
pub(super) fn start(command: &mut Command) -> std::io::Result<Child> {
    let mut followed = followed();
    if LEAVING.load(Ordering::SeqCst) {
        drop(followed);
        wait_if_leaving();
        return Err(std::io::Error::other("this process is about to end"));
    }
    let child = command.spawn()?;
    followed.push(Pid::from_child(&child));
    Ok(child)
}

/// A program has ended, and is not followed any more.
pub(super) fn forget(child: &Child) {
    wait_if_leaving();
    followed().retain(|group| *group != Pid::from_child(child));
}

/// Does not return if this process is about to end.
fn wait_if_leaving() {
    while LEAVING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Ends the process group of a child: SIGTERM, then SIGKILL.
pub(super) fn end_group(child: &mut Child) -> Result<()> {
    end(Pid::from_child(child))?;
    child.wait()?;
    Ok(())
}

/// Ends a process group: SIGTERM, some time for its leader, then SIGKILL.
fn end(group: Pid) -> Result<()> {
    let pidfd = pidfd_open(group, PidfdFlags::empty())?;
    // setsid(1), which has only just started, leads no group yet.
    let _ = kill_process_group(group, Signal::TERM).or_else(|_| kill_process(group, Signal::TERM));
    let grace = Timespec::try_from(GRACE)?;
    let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&grace));
    let _ = kill_process_group(group, Signal::KILL);
    Ok(())
}
