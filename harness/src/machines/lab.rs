//! The lab: a filesystem on which the backing files of disks lie. It is an XFS of its own, where `cp --reflink` takes milliseconds, and is
//! mounted while a process has a disk. The next process removes the disks of a killed one ([`sweep`]).

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::backing_file::{RELEASED_WITHIN, abort};
use super::engine::Owner;
use crate::command::silently;
use crate::packages::binaries;

/// The size of the filesystem on which the backing files lie; sparse, too.
const SIZE: &str = "60G";

/// Where a disk's backing file is mounted if this process serves it, in the directory of the disk.
pub(super) const SERVED: &str = "served";

/// The filesystem on which backing files lie, mounted while a process has a disk.
#[derive(Debug)]
pub(super) struct Lab {
    /// Where it is mounted.
    pub(super) root: PathBuf,
    /// Held shared while a process of this host has the lab.
    users: Option<File>,
}

static LAB: Mutex<Weak<Lab>> = Mutex::new(Weak::new());

impl Lab {
    /// The lab of this process.
    ///
    /// # Errors
    /// If this host has no loop devices or no XFS, or this process is not root; the error says what could not be run.
    pub(super) fn open() -> Result<Arc<Self>> {
        let mut lab = LAB.lock().map_err(|_| anyhow!("a thread panicked"))?;
        if let Some(lab) = lab.upgrade() {
            return Ok(lab);
        }
        is_possible()?;
        let opened = Arc::new(Self::mount().context("the disks of machines")?);
        *lab = Arc::downgrade(&opened);
        Ok(opened)
    }

    fn mount() -> Result<Self> {
        let directory = directory();
        let (root, file) = (directory.join("lab"), directory.join("lab.xfs"));
        fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
        let _setup = setup_lock()?;
        let users = File::create(directory.join("users.lock"))?;
        match users.try_lock() {
            // What is mounted now was left by a process that is gone.
            Ok(()) => clear(&root)?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        // No other process can clear the lab in between: it would need the lock of the set-up.
        users.lock_shared()?;
        if !is_mounted(&root)? {
            if !file.exists() {
                program("truncate", ["--size".as_ref(), SIZE.as_ref(), file.as_os_str()])?;
                program("mkfs.xfs", ["-q".as_ref(), file.as_os_str()])?;
            }
            program("mount", ["-o".as_ref(), "loop,discard".as_ref(), file.as_os_str(), root.as_os_str()])?;
            fs::create_dir_all(root.join("images"))?;
            fs::create_dir_all(root.join("machines"))?;
        }
        sweep_machines(&root)?;
        Ok(Self { root, users: Some(users) })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next sweep.
        let _ = setup_lock().map(|_setup| {
            drop(self.users.take());
            let users = File::create(directory().join("users.lock"))?;
            if users.try_lock().is_ok() {
                clear(&self.root)?;
            }
            anyhow::Ok(())
        });
    }
}

/// Fails where this host cannot make disks, and says why.
///
/// # Errors
/// If this process is not root, the engine is on another machine, or the kernel or a program is missing.
pub fn is_possible() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "mounting needs root");
    let remote = std::env::var("DOCKER_HOST").is_ok_and(|host| !host.is_empty() && !host.starts_with("unix://"));
    ensure!(!remote, "the engine of DOCKER_HOST cannot use a disk of this host");
    ensure!(Path::new("/dev/loop-control").exists(), "the kernel has no loop devices");
    ensure!(Path::new("/dev/fuse").exists(), "the kernel has no FUSE");
    for name in ["mkfs.ext4", "mkfs.xfs", "mkfs.btrfs"] {
        silently(Path::new(name), ["-V".as_ref()]).with_context(|| format!("{name} is needed"))?;
    }
    Ok(())
}

/// Removes what killed processes have left: mounts, loop devices, backing files. Says how many disks these were.
///
/// # Errors
/// If something cannot be removed.
pub fn sweep() -> Result<usize> {
    let root = directory().join("lab");
    if !root.exists() {
        return Ok(0);
    }
    let _setup = setup_lock()?;
    if !is_mounted(&root)? {
        return Ok(0);
    }
    let found = sweep_machines(&root)?;
    let users = File::create(directory().join("users.lock"))?;
    if users.try_lock().is_ok() {
        clear(&root)?;
    }
    Ok(found)
}

/// Removes the disks of processes that are gone.
fn sweep_machines(root: &Path) -> Result<usize> {
    let mut found = 0;
    for entry in fs::read_dir(root.join("machines"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().replace(',', "/");
        if Owner::parse(&name).is_some_and(|owner| owner.may_be_alive()) {
            continue;
        }
        for disk in fs::read_dir(entry.path())? {
            release_dead(&disk?.path())?;
            found += 1;
        }
        fs::remove_dir_all(entry.path())?;
    }
    Ok(found)
}

/// Unmounts the lab and all that lies on it.
fn clear(root: &Path) -> Result<()> {
    if !is_mounted(root)? {
        return Ok(());
    }
    for owner in fs::read_dir(root.join("machines"))? {
        for disk in fs::read_dir(owner?.path())? {
            release_dead(&disk?.path())?;
        }
    }
    unmount(root)
}

/// A path for a disk, a capture or a log of this process, which its number tells from all others.
pub(super) fn new_path(lab: &Lab, prefix: &str) -> Result<PathBuf> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let owner = Owner::this().to_string().replace('/', ",");
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = lab.root.join("machines").join(owner);
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    Ok(directory.join(format!("{prefix}{number}")))
}

/// Removes what a process has left that is gone: nobody answers for its served files.
fn release_dead(path: &Path) -> Result<()> {
    abort(&path.join(SERVED));
    release(path)
}

/// Unmounts a disk and removes its directory; captures are files beside these directories.
pub(super) fn release(path: &Path) -> Result<()> {
    if path.is_file() {
        return Ok(fs::remove_file(path)?);
    }
    unmount(&path.join("root"))?;
    fs::remove_dir_all(path).with_context(|| path.display().to_string())
}

/// Unmounts a filesystem, once containers and loop devices have released it.
pub(super) fn unmount(root: &Path) -> Result<()> {
    let deadline = Instant::now() + RELEASED_WITHIN;
    while is_mounted(root)? {
        if let Err(error) = program("umount", [root.as_os_str()]) {
            ensure!(Instant::now() < deadline, "{error:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// True if something is mounted there.
fn is_mounted(path: &Path) -> Result<bool> {
    let path = path.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|place| Path::new(place) == path)))
}

/// Held while the lab is mounted or unmounted.
fn setup_lock() -> Result<File> {
    let lock = File::create(directory().join("setup.lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn directory() -> PathBuf {
    binaries::target().join("disks")
}

/// Runs a program that changes disks. An error has what it printed.
pub(super) fn program<'a>(name: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    silently(Path::new(name), arguments)
}
