//! The single changes that a rollback makes to the machine.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};
use rustix::io::Errno;

use super::metadata::{Kind, PathEntry};

/// Makes one change to the machine. Every change of a rollback calls this, so that tests can interrupt it anywhere.
pub(super) fn change<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    #[cfg(test)]
    super::tests::interruption::interrupt_if_due()?;
    work()
}

/// Makes what needs no content: a link, a device, a pipe.
pub(super) fn make(entry: &PathEntry, path: &Path) -> Result<()> {
    let mode = Mode::from_raw_mode(entry.mode);
    change(|| {
        match &entry.kind {
            Kind::Symlink { target } => std::os::unix::fs::symlink(target.path(), path)?,
            Kind::Block { major, minor } => {
                mknodat(CWD, path, FileType::BlockDevice, mode, makedev(*major, *minor))?;
            }
            Kind::Character { major, minor } => {
                mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(*major, *minor))?;
            }
            Kind::Fifo => mknodat(CWD, path, FileType::Fifo, mode, 0)?,
            Kind::Directory => fs::create_dir(path)?,
            Kind::File { .. } | Kind::Socket => anyhow::bail!("it cannot be made of nothing"),
        }
        Ok(())
    })?;
    change(|| entry.put_attributes(path, true))
}

/// Puts one thing in the place of another of another type, and that one under the first one's name. False if the filesystem cannot.
pub(super) fn exchange(new: &Path, old: &Path) -> Result<bool> {
    change(|| match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::XDEV) => Ok(false),
        Err(error) => Err(io::Error::from(error).into()),
    })
}

/// Puts something under a name that may be taken.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    change(|| Ok(fs::rename(from, to)?))
}

/// Removes a file or link, or a directory if it is empty. False if it has to stay: it is not empty, mounted on, or immutable.
/// What is not there is removed.
pub(super) fn remove(path: &Path) -> Result<bool> {
    let Some(seen) = super::metadata::read_metadata(path)? else { return Ok(true) };
    let is_directory = seen.entry.kind == Kind::Directory;
    change(|| match if is_directory { fs::remove_dir(path) } else { fs::remove_file(path) } {
        Err(error) if is_refused(&error) || error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(true),
    })
}

/// True for the errors of a path that cannot be replaced: something is mounted on it, or it is immutable.
pub(super) fn is_refused(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::BUSY | Errno::PERM))
}
