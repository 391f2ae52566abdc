//! The lock that allows one run at a time.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _, stdin};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::exit::{Exit, Failure};

/// A process that checks whether the lock is free holds it for a moment, so taking it is retried this often, at this interval.
const GLANCES: u32 = 5;
const GLANCE: Duration = Duration::from_millis(20);

/// The lock of a run. It is held while this value exists, and is released when the process ends for any reason.
///
/// It is a flock(2), which belongs to the open file and not to a process. A child that inherits the file holds the lock, too
/// (see [`Lock::share`]), so the lock passes to another process and is never free in between.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock, or fails at once with [`Exit::Busy`].
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // A user who may open it could hold it, and block upgrades.
            .mode(0o600)
            .open(path)
            .with_context(|| cannot(path))?;
        let mut taken = file.try_lock();
        for _ in 0..GLANCES {
            if !matches!(taken, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(GLANCE);
            taken = file.try_lock();
        }
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let who = if holder.is_empty() { String::new() } else { format!(" (pid {holder})") };
                let command = path.file_stem().unwrap_or_default().to_string_lossy();
                return Err(Failure::new(format!("another run is under way{who}"))
                    .remedy(format!("`{command} attach` shows it; or wait until it has ended."))
                    .exit(Exit::Busy)
                    .into());
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| cannot(path)),
        }
        Self { file }.signed(path)
    }

    /// The lock that another process [shared](Self::share) with this one as its stdin.
    pub(crate) fn inherited(path: &Path) -> Result<Self> {
        // Children must not inherit it: a daemon that a hook starts would hold the lock.
        let file = File::from(rustix::io::fcntl_dupfd_cloexec(stdin(), 0).context("no stdin")?);
        let (given, wanted) = (file.metadata()?, path.metadata().with_context(|| cannot(path))?);
        let is_it = given.dev() == wanted.dev() && given.ino() == wanted.ino() && file.try_lock().is_ok();
        ensure!(is_it, "{}: this process was not given the lock", path.display());
        Self { file }.signed(path)
    }

    /// The locked file, for a child that shares the lock.
    pub(crate) fn share(&self) -> Result<File> {
        self.file.try_clone().context("the lock cannot be shared")
    }

    /// Writes the pid of this process into the file, for messages about the lock.
    fn signed(mut self, path: &Path) -> Result<Self> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .and_then(|()| writeln!(self.file, "{}", std::process::id()))
            .with_context(|| cannot(path))?;
        Ok(self)
    }
}

/// True if a run holds the lock now.
pub(crate) fn is_taken(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn cannot(path: &Path) -> String {
    format!("{}: cannot be locked", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::code_of;

    #[test]
    fn a_second_run_is_told_who_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        assert!(!is_taken(&path));
        let first = Lock::take(&path).expect("free");
        assert!(is_taken(&path));
        let error = Lock::take(&path).expect_err("taken");
        assert_eq!(code_of(&error, Exit::Unchanged), Exit::Busy);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        let shared = first.share().expect("shared");
        drop(first);
        assert!(is_taken(&path), "the process that shares it still holds it");
        drop(shared);
        assert!(Lock::take(&path).is_ok(), "free again");
    }
}
