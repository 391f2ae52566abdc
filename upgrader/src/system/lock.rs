//! The lock that allows one run at a time.

use std::fs::{File, Metadata, TryLockError};
use std::io::{Read as _, Seek as _, Write as _, stdin};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::geteuid;

use crate::exit::{Exit, Failure};
use crate::files;
use crate::files::Place;
use crate::system::remove_file;

/// Only root can open the file: another user could hold the lock, and block upgrades.
const OWN_MODE: u32 = 0o600;

/// The longest pid, in bytes.
const PID: u64 = 20;

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
    ///
    /// A file that others could open is replaced: they could hold the lock for ever, or may hold it later.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let mut is_new = false;
        loop {
            if there(path).is_some_and(|there| !there.is_file()) {
                return Err(Failure::new(format!("{}: this is not a file that can be locked", path.display()))
                    .remedy(format!(
                        "`ls -l {0}` shows what it is. Remove it (`rm {0}`), then start again.",
                        path.display()
                    ))
                    .into());
            }
            let file = files::update(path, OWN_MODE).with_context(|| cannot(path))?;
            let found = file.metadata().with_context(|| cannot(path))?;
            let is_own = found.mode() & 0o777 & !OWN_MODE == 0 && found.uid() == geteuid().as_raw();
            let mut taken = file.try_lock();
            for _ in 0..GLANCES {
                if !matches!(taken, Err(TryLockError::WouldBlock)) {
                    break;
                }
                std::thread::sleep(GLANCE);
                taken = file.try_lock();
            }
            match taken {
                // Another process may have replaced the file meanwhile.
                Ok(()) if !is_at(&found, path) => {}
                Ok(()) if is_own || is_new => return Self { file }.signed(path),
                Ok(()) => {
                    remove_file(path).with_context(|| cannot(path))?;
                    is_new = true;
                }
                // A run is root's.
                Err(TryLockError::WouldBlock) if !is_own && is_held_by_others(&found) => {
                    remove_file(path).with_context(|| cannot(path))?;
                }
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = (&file).take(PID).read_to_string(&mut holder);
                    let holder = holder.trim();
                    let who = if holder.is_empty() { String::new() } else { format!(" (pid {holder})") };
                    let command = path.file_stem().unwrap_or_default().display();
                    let remedy = if is_own {
                        format!("`{command} attach` shows it; or wait until it has ended.")
                    } else {
                        format!(
                            "`fuser -v {0}` shows which process holds the lock. If it is not {command}, end it and remove {0}.",
                            path.display()
                        )
                    };
                    return Err(Failure::new(format!("another run is under way{who}"))
                        .remedy(remedy)
                        .exit(Exit::Busy)
                        .into());
                }
                Err(TryLockError::Error(error)) => return Err(error).with_context(|| cannot(path)),
            }
        }
    }

    /// The lock that another process [shared](Self::share) with this one as its stdin.
    pub(crate) fn inherited(path: &Path) -> Result<Self> {
        // Children must not inherit it: a daemon that a hook starts would hold the lock.
        let file = File::from(rustix::io::fcntl_dupfd_cloexec(stdin(), 0).context("no stdin")?);
        let is_it = is_at(&file.metadata()?, path) && file.try_lock().is_ok();
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
    files::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// True if only processes of other users than root hold locks on a file (`proc_locks(5)`).
fn is_held_by_others(file: &Metadata) -> bool {
    let locks = files::text("/proc/locks").unwrap_or_default();
    // `1: FLOCK  ADVISORY  READ 1234 fe:00:56789 0 EOF`: the process that took it, and device and inode.
    let inode = format!(":{}", file.ino());
    let holders = locks.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1) == Some(&"FLOCK") && fields.get(5).is_some_and(|place| place.ends_with(&inode));
        is_it.then(|| fields[4])
    });
    // One that has ended has given it to a child; nobody knows whose that is.
    let users: Vec<_> = holders.map(|process| files::metadata(format!("/proc/{process}")).map(|it| it.uid())).collect();
    !users.is_empty() && users.iter().all(|user| user.as_ref().is_ok_and(|user| *user != geteuid().as_raw()))
}

/// What is at the path, and not what a link there leads to.
fn there(path: &Path) -> Option<Metadata> {
    Place::of(path).and_then(|place| place.look()?.metadata()).ok()
}

/// True if this file is the one at the path.
fn is_at(file: &Metadata, path: &Path) -> bool {
    there(path).is_some_and(|there| (there.dev(), there.ino()) == (file.dev(), file.ino()))
}

fn cannot(path: &Path) -> String {
    format!("{}: cannot be locked", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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

    #[test]
    fn a_file_that_others_could_open_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        for mode in [0o644, 0o606, 0o620] {
            std::fs::write(&path, "").expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode set");
            // Another user has it open, and takes the lock later.
            let others = File::open(&path).expect("readable");
            let lock = Lock::take(&path).expect("free");
            assert_eq!(path.metadata().expect("there").mode() & 0o777, OWN_MODE);
            others.try_lock().expect("the file is not the lock any more");
            assert!(is_taken(&path));
            drop(lock);
            assert!(Lock::take(&path).is_ok(), "{mode:o}: the process that held the old file holds nothing");
        }
    }

    #[test]
    fn a_lock_that_another_user_may_hold_is_busy_and_says_how_to_find_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("acme-upgrade.lock");
        std::fs::write(&path, "").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("mode set");
        let others = File::open(&path).expect("readable");
        others.lock_shared().expect("free");
        let error = Lock::take(&path).expect_err("taken");
        assert_eq!(code_of(&error, Exit::Unchanged), Exit::Busy);
        assert!(crate::exit::remedy_of(&error).is_some_and(|remedy| remedy.contains("fuser -v ")), "{error}");
    }

    #[test]
    fn what_is_no_file_is_refused_at_once_and_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join("target");
        let path = directory.path().join("lock");
        std::os::unix::fs::symlink(&target, &path).expect("linked");
        let refused = |path: &Path| {
            let error = Lock::take(path).expect_err("no lock");
            assert!(crate::exit::describe(&error).contains("this is not a file that can be locked"), "{error:#}");
            assert!(!is_taken(path));
        };
        refused(&path);
        assert!(!target.exists(), "the link was followed");
        std::fs::remove_file(&path).expect("removed");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
        refused(&path);
        assert!(path.symlink_metadata().is_ok());
    }
}
