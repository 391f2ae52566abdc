//! The faults of a disk, and the moment at which one is injected.

use std::fmt;
use std::fs::{self, File};

use anyhow::Result;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::machines::backing_file::DiskFailure;
use crate::machines::disk::Disk;

/// The file that fills a disk. Nothing below /var/cache is compared.
const FILLER: &str = "var/cache/filler";

/// The upgrader's journal, below the root of the disk.
const JOURNAL: &str = "var/lib/xivo-upgrade/journal";

/// What happens to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskFault {
    /// After so many writes, every write fails: with EIO, or with ENOSPC where it is thinly provisioned.
    Failing(DiskFailure, u64),
    /// The filesystem has so many bytes left.
    Full(u64),
    /// The filesystem has found an error, and has become read-only.
    ReadOnly,
}

impl fmt::Display for DiskFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failing(DiskFailure::Io, writes) => write!(f, "EIO after {writes} writes"),
            Self::Failing(DiskFailure::NoSpace, writes) => write!(f, "ENOSPC below after {writes} writes"),
            Self::Full(bytes) => write!(f, "full but for {} KiB", bytes / 1024),
            Self::ReadOnly => f.write_str("read-only"),
        }
    }
}

impl DiskFault {
    pub(super) fn inject(self, disk: &Disk) -> Result<()> {
        match self {
            Self::Failing(how, writes) => disk.served()?.fail_after(writes, how),
            Self::Full(left) => fill(disk, left)?,
            Self::ReadOnly => disk.remount("abort")?,
        }
        Ok(())
    }

    /// True if the machine has met it.
    pub(super) fn was_met(self, disk: &Disk) -> Result<bool> {
        Ok(!matches!(self, Self::Failing(..)) || disk.served()?.failed() > 0)
    }

    /// Makes the disk well again. A filesystem that has become read-only stays so until the machine boots.
    pub(super) fn clear(self, disk: &Disk) -> Result<()> {
        match self {
            Self::Failing(..) => disk.served()?.stop_failing(),
            Self::Full(_) => fs::remove_file(disk.path().join(FILLER))?,
            Self::ReadOnly => {}
        }
        Ok(())
    }

    /// True if the disk can be made well without a boot.
    pub(super) fn needs_no_boot(self) -> bool {
        matches!(self, Self::Full(_))
    }
}

/// Fills a disk, but for so many bytes. What statvfs(3) calls free is no measure: an ext4 keeps a part of it for its own metadata.
fn fill(disk: &Disk, left: u64) -> Result<()> {
    let filler = File::create(disk.path().join(FILLER))?;
    let now = statvfs(disk.path())?;
    let (mut size, mut more) = (0, now.f_bfree.saturating_mul(now.f_frsize));
    while more >= now.f_frsize {
        match fallocate(&filler, FallocateFlags::empty(), size, more) {
            Err(Errno::NOSPC) => more /= 2,
            result => {
                result?;
                size += more;
            }
        }
    }
    Ok(filler.set_len(size.saturating_sub(left))?)
}

/// True if the journal of the run under way has an entry: `step-began packages`.
pub(super) fn journal_has(disk: &Disk, entry: &str) -> bool {
    let text = fs::read(disk.path().join(JOURNAL)).unwrap_or_default();
    let (kind, what) = entry.split_once(' ').unwrap_or((entry, ""));
    let wanted = format!("\"{kind}\":\"{what}");
    String::from_utf8_lossy(&text).contains(&wanted)
}

/// True if a run is interrupted: there is a journal.
pub(super) fn has_journal(disk: &Disk) -> bool {
    disk.path().join(JOURNAL).exists()
}
