//! Disks of machines: a filesystem on a loop device, whose backing file can be captured at any moment. The files lie in the
//! [lab](super::lab).

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};

use super::backing_file::BackingFile;
use super::engine::Engine;
use super::image::Image;
use super::lab::{Lab, SERVED, new_path, program, release, unmount};
use super::write_record::DiskImage;

/// The size of a machine's disk. The backing file is sparse.
const SIZE: &str = "3G";

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

fn clone_file(from: &Path, to: &Path) -> Result<()> {
    program("cp", ["--reflink=always".as_ref(), from.as_os_str(), to.as_os_str()])
}
