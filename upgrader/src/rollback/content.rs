//! Copies, clones and compares the content of files, and classifies the errors of links and clones.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{OFlags, ioctl_ficlone};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Copies a file, and says how many bytes it has and their SHA-256 sum, in hex.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(u64, String)> {
    let mut to = create(to)?;
    Ok(read(from, |bytes| to.write_all(bytes))?)
}

/// Makes a file of another one's blocks.
pub(super) fn clone(from: &Path, to: &Path) -> Result<()> {
    Ok(ioctl_ficlone(create(to)?, open(from)?)?)
}

/// The SHA-256 sum of a file, in hex.
pub(super) fn sum(path: &Path) -> Result<String> {
    Ok(read(path, |_| Ok(())).with_context(|| path.display().to_string())?.1)
}

/// Reads a file piece by piece, and says how many bytes it has and their SHA-256 sum, in hex.
fn read(path: &Path, mut piece: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<(u64, String)> {
    let mut file = open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((size, format!("{:x}", digest.finalize())));
        }
        digest.update(&buffer[..count]);
        piece(&buffer[..count])?;
        size += count as u64;
    }
}

/// True if two files have the same content.
pub(super) fn are_same(one: &Path, other: &Path) -> Result<bool> {
    let same = || -> io::Result<bool> {
        let (mut one, mut other) = (io::BufReader::new(open(one)?), io::BufReader::new(open(other)?));
        loop {
            let (left, right) = (io::BufRead::fill_buf(&mut one)?, io::BufRead::fill_buf(&mut other)?);
            let count = left.len().min(right.len());
            if left[..count] != right[..count] || (count == 0 && left.len() != right.len()) {
                return Ok(false);
            }
            if count == 0 {
                return Ok(true);
            }
            io::BufRead::consume(&mut one, count);
            io::BufRead::consume(&mut other, count);
        }
    };
    same().with_context(|| one.display().to_string())
}

fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    File::options().read(true).custom_flags(flags.cast_signed()).open(path)
}

fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// True if files in this directory can share blocks with others.
pub(super) fn can_clone(directory: &Path) -> bool {
    let (from, to) = (directory.join("probe"), directory.join("probe-2"));
    let answer = fs::write(&from, [0; 4096]).is_ok() && clone(&from, &to).is_ok();
    for probe in [from, to] {
        let _ = fs::remove_file(probe);
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

pub(super) fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}
