//! Waits for other programs that hold the locks of apt and dpkg, and holds those of dpkg.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};

use crate::exit::{Exit, Failure};
use crate::files;
use crate::model::event::Event;
use crate::model::events::Events;

/// The locks of apt and dpkg, in the order in which they take them (apt's `apt-pkg/deb/debsystem.cc` and `acquire.cc`).
const LOCKS: [&str; 4] =
    ["var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock", "var/lib/apt/lists/lock", "var/cache/apt/archives/lock"];

/// How often to check again.
const STEP: Duration = Duration::from_secs(1);

/// Waits until no other program holds a lock, and emits each second which one does.
///
/// # Errors
/// If a program still holds a lock after the timeout.
pub(crate) fn wait(root: &Path, limit: Duration, events: &mut Events<'_>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while let Some(who) = holder(root) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::new(format!("another program holds the dpkg lock: {who}"))
                .remedy("Wait until it has ended, then start again.")
                .exit(Exit::Unchanged)
                .into());
        }
        // Rounded up, so that the first message names the whole timeout.
        events.emit(Event::Waiting { who, seconds: left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX) });
        std::thread::sleep(STEP.min(left));
    }
    Ok(())
}

/// Waits in the same way, and then holds the locks of dpkg until the files are dropped. Meanwhile [`holder`] must not be asked: this
/// process would lose its locks (fcntl(2)).
///
/// # Errors
/// If a program still holds a lock after the timeout, or a lock cannot be opened.
pub(crate) fn hold(root: &Path, limit: Duration, events: &mut Events<'_>) -> Result<Vec<File>> {
    wait(root, limit, events)?;
    let lock = |path: &str| {
        let path = root.join(path);
        let file = files::update(&path, 0o640);
        let file = file.with_context(|| path.display().to_string())?;
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).with_context(|| path.display().to_string())?;
        Ok(file)
    };
    LOCKS.iter().filter(|path| path.starts_with("var/lib/dpkg/")).map(|path| lock(path)).collect()
}

/// The process that holds one of the locks: `apt-get (pid 123)`.
pub(crate) fn holder(root: &Path) -> Option<String> {
    LOCKS.iter().find_map(|lock| holder_of(&root.join(lock)))
}

/// The process that holds a POSIX record lock on a file (fcntl(2), `F_GETLK`).
fn holder_of(path: &Path) -> Option<String> {
    // F_GETLK for a write lock needs a file that is open for writing.
    let file = files::exists(path).then(|| files::update(path, 0o640).ok())??;
    let question =
        Flock { start: 0, length: 0, pid: None, typ: FlockType::WriteLock, offset_type: FlockOffsetType::Set };
    let held = fcntl_getlk(&file, &question).ok()??;
    // A process of another container has no pid in this one.
    let Some(process) = held.pid.map(rustix::process::Pid::as_raw_nonzero) else {
        return Some("a process of another container".to_owned());
    };
    let name = files::text(format!("/proc/{process}/comm")).unwrap_or_default();
    let name = if name.trim().is_empty() { "a process" } else { name.trim() };
    Some(format!("{name} (pid {process})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_lock_and_an_absent_one_have_no_holder() {
        let root = tempfile::tempdir().expect("a directory");
        assert_eq!(holder(root.path()), None);
        let (root, _) = crate::paths::Paths::of_test_machine(&[(LOCKS[0], "")]);
        assert_eq!(holder(root.path()), None);
        assert!(wait(root.path(), Duration::ZERO, &mut Events::default()).is_ok());
    }
}
