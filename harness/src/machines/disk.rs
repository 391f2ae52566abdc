//! Disks of machines: a filesystem on a loop device, whose backing file can be captured at any moment.
//!
//! The backing files lie on an XFS filesystem of their own, the lab, where `cp --reflink` takes milliseconds. The lab is mounted while a
//! process has a disk. The next process removes the disks of a killed one ([`sweep`]).

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::backing_file::{BackingFile, RELEASED_WITHIN, abort};
use super::engine::{Engine, Owner};
use super::image::Image;
use super::write_record::DiskImage;
use crate::command::silently;
use crate::packages::binaries;

/// The size of a machine's disk. The backing file is sparse.
const SIZE: &str = "3G";

/// The size of the filesystem on which the backing files lie; sparse, too.
const LAB_SIZE: &str = "60G";

/// Where a disk's backing file is mounted if this process serves it, in the directory of the disk.
const SERVED: &str = "served";

/// The filesystem of a machine's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Filesystem {
    /// ext4 with a journal, as Debian's installer makes it.
    Ext4,
    /// XFS, which shares blocks between files.
    Xfs,
    /// btrfs, which shares blocks between files, too.
    Btrfs,
}

impl Filesystem {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// How it is made and mounted: the name for mkfs.NAME and mount(8), options of the one and of the other.
    fn programs(self) -> (&'static str, &'static [&'static str], &'static str) {
        match self {
            Self::Ext4 => ("ext4", &["-q", "-F"], "defaults"),
            // A captured filesystem has the UUID of the one that it was captured of.
            Self::Xfs => ("xfs", &["-q", "-f"], "nouuid"),
            Self::Btrfs => ("btrfs", &["-q", "-f"], "defaults"),
        }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.programs().0)
    }
}

/// The filesystem on which backing files lie, mounted while a process has a disk.
#[derive(Debug)]
struct Lab {
    /// Where it is mounted.
    root: PathBuf,
    /// Held shared while a process of this host has the lab.
    users: Option<File>,
}

static LAB: Mutex<Weak<Lab>> = Mutex::new(Weak::new());

impl Lab {
    /// The lab of this process.
    ///
    /// # Errors
    /// If this host has no loop devices or no XFS, or this process is not root; the error says what could not be run.
    fn open() -> Result<Arc<Self>> {
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
                program("truncate", ["--size".as_ref(), LAB_SIZE.as_ref(), file.as_os_str()])?;
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

/// Who answers when a disk is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// The kernel.
    Kernel,
    /// This process, with a [`BackingFile`].
    Served,
}

/// A disk of a machine, mounted on this host. Removed when dropped.
#[derive(Debug)]
pub struct Disk {
    filesystem: Filesystem,
    directory: PathBuf,
    /// Dropped after the disk was unmounted.
    served: Option<BackingFile>,
    lab: Arc<Lab>,
}

/// What was on a disk at one moment: a machine whose power was cut then finds this. Removed when dropped.
#[derive(Debug)]
pub struct Capture {
    /// The filesystem.
    pub filesystem: Filesystem,
    file: PathBuf,
    lab: Arc<Lab>,
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

impl Capture {
    /// Saves it as a file that outlives this process. It is sparse, and can be mounted with `mount -o loop`.
    ///
    /// # Errors
    /// If the filesystem of the file is full.
    pub fn save(&self, path: &Path) -> Result<()> {
        program("cp", ["--sparse=always".as_ref(), self.file.as_os_str(), path.as_os_str()])
    }

    /// Checks its filesystem, and repairs what is safe to repair, as Debian does at boot.
    ///
    /// # Errors
    /// If the rest needs an admin, or the filesystem is not ext4.
    pub fn repair(&self) -> Result<()> {
        ensure!(self.filesystem == Filesystem::Ext4, "{} checks itself when it is mounted", self.filesystem);
        // Exit code 1: errors were corrected.
        let script = "fsck.ext4 -p \"$0\" || [ $? -eq 1 ]";
        program("sh", ["-c".as_ref(), script.as_ref(), self.file.as_os_str()])
    }

    fn of_file(filesystem: Filesystem, lab: &Arc<Lab>, disk: &Path) -> Result<Self> {
        let file = new_path(lab, "capture-")?;
        clone_file(disk, &file)?;
        Ok(Self { filesystem, file, lab: Arc::clone(lab) })
    }
}

impl DiskImage for Capture {
    fn copy(&self) -> Result<Self> {
        Self::of_file(self.filesystem, &self.lab, &self.file)
    }

    fn open(&self) -> Result<File> {
        Ok(File::options().read(true).write(true).open(&self.file)?)
    }
}

impl Disk {
    /// A disk with the files of an image.
    ///
    /// # Errors
    /// If this host cannot make one.
    pub fn of_image(filesystem: Filesystem, backing: Backing, engine: &Engine, image: &Image) -> Result<Self> {
        let lab = Lab::open()?;
        let name = image.to_string().replace(['/', ':'], "-");
        let prepared = lab.root.join("images").join(format!("{name}-{filesystem}"));
        let lock = File::create(lab.root.join(format!("images/{name}-{filesystem}.lock")))?;
        lock.lock()?;
        if !prepared.exists() {
            prepare(&lab, filesystem, engine, image, &prepared)?;
        }
        drop(lock);
        Self::of_file(lab, filesystem, backing, &prepared)
    }

    /// A disk with what was captured of another one. Mounting it replays the journal of the filesystem.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn of_capture(capture: &Capture) -> Result<Self> {
        Self::of_file(Arc::clone(&capture.lab), capture.filesystem, Backing::Kernel, &capture.file)
    }

    /// The same, served by this process: [`Backing::Served`].
    ///
    /// # Errors
    /// If it cannot be served or mounted.
    pub fn of_capture_served(capture: &Capture) -> Result<Self> {
        Self::of_file(Arc::clone(&capture.lab), capture.filesystem, Backing::Served, &capture.file)
    }

    fn of_file(lab: Arc<Lab>, filesystem: Filesystem, backing: Backing, file: &Path) -> Result<Self> {
        let mut disk = Self::new(lab, filesystem)?;
        clone_file(file, &disk.file())?;
        disk.start(backing)?;
        Ok(disk)
    }

    /// Mounts it, once its file is served if it is to be.
    fn start(&mut self, backing: Backing) -> Result<()> {
        if backing == Backing::Served {
            self.served = Some(BackingFile::serve(&self.file(), &self.directory.join(SERVED))?);
        }
        self.mount()
    }

    /// A disk without files.
    #[cfg(test)]
    pub(super) fn empty(filesystem: Filesystem, backing: Backing) -> Result<Self> {
        let mut disk = Self::new(Lab::open()?, filesystem)?;
        make_filesystem(filesystem, &disk.file())?;
        disk.start(backing)?;
        Ok(disk)
    }

    fn new(lab: Arc<Lab>, filesystem: Filesystem) -> Result<Self> {
        let directory = new_path(&lab, "")?;
        fs::create_dir_all(directory.join("root")).with_context(|| directory.display().to_string())?;
        Ok(Self { filesystem, directory, served: None, lab })
    }

    fn mount(&self) -> Result<()> {
        let (kind, _, options) = self.filesystem.programs();
        let file = self.served.as_ref().map_or_else(|| self.file(), |served| served.path().to_owned());
        let options = format!("loop,{options}");
        let words = ["-t", kind, "-o", &options].map(OsStr::new);
        program("mount", words.into_iter().chain([file.as_os_str(), self.path().as_os_str()]))
    }

    /// Changes the options with which it is mounted, on the machine, too. `abort` (ext4(5)) makes it read-only, as an error does.
    ///
    /// # Errors
    /// If the filesystem refuses.
    pub fn remount(&self, options: &str) -> Result<()> {
        let options = format!("remount,{options}");
        program("mount", ["-o".as_ref(), options.as_ref(), self.path().as_os_str()])
    }

    /// Its filesystem.
    #[must_use]
    pub fn filesystem(&self) -> Filesystem {
        self.filesystem
    }

    /// Where it is mounted on this host.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// The backing file.
    fn file(&self) -> PathBuf {
        self.directory.join("disk")
    }

    /// When the filesystem wrote on the disk last, as the clock of the lab has it: within a few milliseconds.
    ///
    /// # Errors
    /// If the disk is gone.
    pub fn last_written(&self) -> Result<SystemTime> {
        Ok(fs::metadata(self.file())?.modified()?)
    }

    /// Captures what is on the disk at this moment: what the filesystem has written, and not what it still has in memory.
    ///
    /// # Errors
    /// If the lab is full.
    pub fn capture(&self) -> Result<Capture> {
        Capture::of_file(self.filesystem, &self.lab, &self.file())
    }

    /// The file through which it is read and written, to record, delay and fail what is written.
    ///
    /// # Errors
    /// If it is not [`Backing::Served`].
    pub fn served(&self) -> Result<&BackingFile> {
        self.served.as_ref().context("the kernel itself reads and writes this disk")
    }

    /// Begins to record what is written, and captures what is on the disk before. That counts as flushed.
    ///
    /// # Errors
    /// If the disk is not [`Backing::Served`], or the lab is full.
    pub fn start_recording(&self) -> Result<Capture> {
        let path = new_path(&self.lab, "log-")?;
        let log = File::options().read(true).write(true).create_new(true).open(&path)?;
        // It is gone when it is closed.
        fs::remove_file(&path)?;
        self.served()?.start_recording(log, || self.capture())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next sweep.
        let _ = unmount(&self.directory.join("root"));
        drop(self.served.take());
        let _ = release(&self.directory);
    }
}

/// Makes the backing file with the files of an image.
fn prepare(lab: &Arc<Lab>, filesystem: Filesystem, engine: &Engine, image: &Image, prepared: &Path) -> Result<()> {
    let disk = Disk::new(Arc::clone(lab), filesystem)?;
    let file = disk.file();
    make_filesystem(filesystem, &file)?;
    disk.mount()?;
    let archive = disk.directory.join("files.tar");
    image.export(engine, &archive)?;
    let root = disk.path();
    let words = ["--extract", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--file"].map(OsStr::new);
    program("tar", words.into_iter().chain([archive.as_os_str(), "--directory".as_ref(), root.as_os_str()]))?;
    program("umount", [root.as_os_str()])?;
    fs::rename(&file, prepared)?;
    remove_older(prepared, &format!("{}-", image.repository.replace('/', "-")))
}

/// Makes an empty filesystem in a new file.
fn make_filesystem(filesystem: Filesystem, file: &Path) -> Result<()> {
    let (kind, options, _) = filesystem.programs();
    program("truncate", ["--size".as_ref(), SIZE.as_ref(), file.as_os_str()])?;
    program(&format!("mkfs.{kind}"), options.iter().map(OsStr::new).chain([file.as_os_str()]))
}

/// Removes the disks of older images of the same name: these differ from this one in the tag only.
fn remove_older(prepared: &Path, repository: &str) -> Result<()> {
    let (directory, name) = prepared.parent().zip(prepared.file_name()).context("a file in a directory")?;
    let name = name.to_string_lossy();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let other = entry.file_name().to_string_lossy().into_owned();
        let filesystem = |name: &str| name.rsplit('-').next().map(str::to_owned);
        let is_older =
            other.starts_with(repository) && other.len() == name.len() && filesystem(&other) == filesystem(&name);
        if is_older && other != name {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A path for a disk, a capture or a log of this process, which its number tells from all others.
fn new_path(lab: &Lab, prefix: &str) -> Result<PathBuf> {
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
fn release(path: &Path) -> Result<()> {
    if path.is_file() {
        return Ok(fs::remove_file(path)?);
    }
    unmount(&path.join("root"))?;
    fs::remove_dir_all(path).with_context(|| path.display().to_string())
}

/// Unmounts a filesystem, once containers and loop devices have released it.
fn unmount(root: &Path) -> Result<()> {
    let deadline = Instant::now() + RELEASED_WITHIN;
    while is_mounted(root)? {
        if let Err(error) = program("umount", [root.as_os_str()]) {
            ensure!(Instant::now() < deadline, "{error:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn clone_file(from: &Path, to: &Path) -> Result<()> {
    program("cp", ["--reflink=always".as_ref(), from.as_os_str(), to.as_os_str()])
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

fn program<'a>(name: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    silently(Path::new(name), arguments)
}
