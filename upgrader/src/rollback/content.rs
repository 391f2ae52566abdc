//! Copies, clones and compares the content of files, and classifies the errors of links and clones.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::metadata::Metadata;
use crate::files::{Object, Place};

/// What is read at once, in bytes.
const PIECE: usize = 64 * 1024;

/// The begin of the sum of a file with holes. It is that of every piece with another byte than 0, after the piece's position as eight
/// bytes, little endian; and of the size, likewise.
const WITH_HOLES: &str = "holes:";

/// Opens a file if it is what was seen; `None` if it is another one now.
pub(super) fn open_seen(place: &Place, seen: &Metadata) -> Result<Option<File>> {
    let object = Object::from(OwnedFd::from(place.open()?));
    Ok(seen.is_of(&object)?.then(|| OwnedFd::from(object).into()))
}

/// Opens a file.
pub(super) fn open(path: &Path) -> io::Result<File> {
    Place::of(path)?.open()
}

/// Makes a file.
pub(super) fn create(path: &Path) -> io::Result<File> {
    Place::of(path)?.create()
}

/// Copies a file and keeps its holes. Returns its size in bytes and its sum.
pub(super) fn copy(from: &File, to: &File) -> Result<(u64, String)> {
    let (size, sum) = read(from, has_holes(from)?, |at, piece| {
        // What has only zeros becomes a hole.
        if piece.iter().any(|byte| *byte != 0) { to.write_all_at(piece, at) } else { Ok(()) }
    })?;
    to.set_len(size)?;
    Ok((size, sum))
}

/// Makes a file of another one's blocks.
pub(super) fn clone(from: &File, to: &File) -> Result<()> {
    Ok(ioctl_ficlone(to, from)?)
}

/// True if a file has the size and the sum that were recorded.
pub(super) fn has_sum(path: &Path, size: Option<u64>, sum: &str) -> Result<bool> {
    let has = || -> io::Result<bool> {
        let file = open(path)?;
        // It may be growing.
        if size.is_some_and(|size| file.metadata().is_ok_and(|now| now.len() != size)) {
            return Ok(false);
        }
        Ok(read(&file, sum.starts_with(WITH_HOLES), |_, _| Ok(()))?.1 == sum)
    };
    has().with_context(|| path.display().to_string())
}

/// True if a file takes less of the disk than its size.
fn has_holes(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = file.metadata()?;
    Ok(metadata.len() > PIECE as u64 && metadata.blocks().saturating_mul(512) < metadata.len())
}

/// Reads a file piece by piece as far as it goes now, and returns its size in bytes and its sum: SHA-256, in hex. With `holes`, passes over
/// what has only zeros.
fn read(file: &File, holes: bool, mut piece: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<(u64, String)> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; PIECE];
    let (mut at, end) = (0, file.metadata()?.len());
    let size = loop {
        if at >= end {
            break end;
        }
        if holes {
            let next = match seek(file, SeekFrom::Data(at)) {
                // Only a hole is left.
                Err(Errno::NXIO) => break end,
                next => next?,
            };
            at = next - next % PIECE as u64;
        }
        let most = usize::try_from(end - at.min(end)).unwrap_or(PIECE).min(PIECE);
        let count = read_piece(file, &mut buffer[..most], at)?;
        if count == 0 {
            break at;
        }
        let bytes = &buffer[..count];
        if !holes || bytes.iter().any(|byte| *byte != 0) {
            if holes {
                digest.update(at.to_le_bytes());
            }
            digest.update(bytes);
            piece(at, bytes)?;
        }
        at += count as u64;
    };
    if !holes {
        return Ok((size, format!("{:x}", digest.finalize())));
    }
    digest.update(size.to_le_bytes());
    Ok((size, format!("{WITH_HOLES}{:x}", digest.finalize())))
}

/// Fills the buffer from a position, as far as the file goes.
fn read_piece(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], at + count as u64)? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

/// True if two files have the same content.
pub(super) fn are_same(one: &Path, other: &Path) -> Result<bool> {
    let same = || -> io::Result<bool> {
        let (one, other) = (open(one)?, open(other)?);
        let size = other.metadata()?.len();
        if one.metadata()?.len() != size {
            return Ok(false);
        }
        let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
        let mut at = 0;
        loop {
            let (count, other_count) = (read_piece(&one, &mut left, at)?, read_piece(&other, &mut right, at)?);
            if left[..count] != right[..other_count] {
                return Ok(false);
            }
            at += count as u64;
            if count == 0 || at >= size {
                return Ok(true);
            }
        }
    };
    same().with_context(|| one.display().to_string())
}

/// Reads a file of the rollback data.
pub(super) fn content(path: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = open(path).and_then(|mut file| file.read_to_end(&mut content));
    read.with_context(|| path.display().to_string())?;
    Ok(content)
}

/// True if files in this directory can share blocks with others.
pub(super) fn can_clone(directory: &Path) -> bool {
    let (from, to) = (directory.join("probe"), directory.join("probe-2"));
    let probe = || {
        let file = create(&from)?;
        file.write_all_at(&[0; 4096], 0)?;
        clone(&file, &create(&to)?)
    };
    let answer = probe().is_ok();
    for probe in [from, to] {
        let _ = Place::of(&probe).and_then(|place| place.remove_file());
    }
    answer
}

/// True if a file cannot be cloned though others on its filesystem can: one that is exempt from copy-on-write (`chattr +C`), or swapped
/// to (`ioctl_ficlonerange(2)`).
pub(super) fn no_clone(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<Errno>().copied();
    let code = code.or_else(|| Errno::from_io_error(error.downcast_ref::<io::Error>()?));
    matches!(code, Some(Errno::INVAL | Errno::TXTBSY | Errno::OPNOTSUPP | Errno::XDEV))
}

/// True for what the kernel says where no link can be made: between mounts, of what is immutable, on vfat, of too many.
pub(super) fn no_link(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS))
}
