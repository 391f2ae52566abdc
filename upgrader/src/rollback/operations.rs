//! The single changes that a rollback makes to the machine.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::{FileType, Mode, makedev};
use rustix::io::Errno;

use super::metadata::{Kind, Metadata, PathEntry, is_absent, kind_and_mount};
use crate::files::Place;

/// Makes one change to the machine. Every change of a rollback calls this, so that tests can interrupt it anywhere.
pub(super) fn change<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    #[cfg(test)]
    super::tests::interruption::interrupt_if_due()?;
    work()
}

/// The directory in which a link, a device or a pipe is made for a path.
pub(super) fn private_directory(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".d");
    name.into()
}

/// Makes what needs no content: a directory, a link, a device, a pipe. All but directories are made where only root can enter: another user
/// who may write to their directory could otherwise move one away while it still is root's.
pub(super) fn make(entry: &PathEntry, path: &Path) -> Result<()> {
    if entry.kind == Kind::Directory {
        return make_at(entry, &Place::of(path)?);
    }
    let private = Place::of(&private_directory(path))?;
    change(|| Ok(private.make_directory()?))?;
    let new = private.below(OsStr::new("new"))?;
    make_at(entry, &new)?;
    change(|| Ok(new.rename_to(&Place::of(path)?)?))?;
    change(|| Ok(private.remove_directory()?))
}

fn make_at(entry: &PathEntry, place: &Place) -> Result<()> {
    let mode = Mode::from_raw_mode(entry.mode);
    change(|| {
        match &entry.kind {
            Kind::Symlink { target } => place.make_link(target.path())?,
            Kind::Block { major, minor } => place.make_node(FileType::BlockDevice, mode, makedev(*major, *minor))?,
            Kind::Character { major, minor } => {
                place.make_node(FileType::CharacterDevice, mode, makedev(*major, *minor))?;
            }
            Kind::Fifo => place.make_node(FileType::Fifo, mode, 0)?,
            Kind::Directory => place.make_directory()?,
            Kind::File { .. } | Kind::Socket => anyhow::bail!("it cannot be made of nothing"),
        }
        Ok(())
    })?;
    change(|| {
        let object = place.look()?;
        // Another user who may write to the directory can have exchanged it.
        if Metadata::of(&object)?.entry.uid != rustix::process::geteuid().as_raw() {
            return Err(io::Error::from(Errno::LOOP).into());
        }
        Ok(entry.give_to(&object, true)?)
    })
}

/// Puts one thing in the place of another of another type, and that one under the first one's name. False if the filesystem cannot.
pub(super) fn exchange(new: &Place, old: &Place) -> Result<bool> {
    change(|| match new.exchange_with(old) {
        Err(error) if cannot_exchange(&error) => Ok(false),
        exchanged => Ok(exchanged.map(|()| true)?),
    })
}

fn cannot_exchange(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::XDEV))
}

/// Puts something under a name that may be taken.
pub(super) fn rename(from: &Place, to: &Place) -> Result<()> {
    change(|| Ok(from.rename_to(to)?))
}

/// Removes a file or link, or a directory if it is empty. False if it has to stay: it is not empty, mounted on, or immutable.
/// What is not there is removed.
pub(super) fn remove(path: &Path) -> Result<bool> {
    let Some((kind, _)) = kind_and_mount(path)? else { return Ok(true) };
    let remove = || {
        let place = Place::of(path)?;
        if kind.is_dir() { place.remove_directory() } else { place.remove_file() }
    };
    change(|| match remove() {
        Err(error) if is_absent(&error) => Ok(true),
        Err(error) if is_refused(&error) || error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        removed => Ok(removed.map(|()| true)?),
    })
}

/// True for the errors of a path that cannot be replaced: something is mounted on it, it is immutable, or another user changes the
/// directories above it.
pub(super) fn is_refused(error: &io::Error) -> bool {
    let code = Errno::from_io_error(error);
    matches!(code, Some(Errno::BUSY | Errno::PERM | Errno::EXIST | Errno::NOTEMPTY)) || is_absent(error)
}
