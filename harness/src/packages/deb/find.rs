//! Finds .deb files in a directory, and opens only what is a regular file in it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// How large a .deb may be, in bytes: it is held in memory.
const LARGEST: u64 = 2 << 30;

/// The paths of the .debs in and below a directory, in their order. A link to a .deb leads to a path in the directory; links to directories are
/// not followed.
pub(super) fn debs(directory: &Path) -> Result<Vec<PathBuf>> {
    let top = directory.canonicalize().with_context(|| directory.display().to_string())?;
    let mut found = Vec::new();
    collect(&top, directory, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(top: &Path, directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let is_deb = path.extension().is_some_and(|extension| extension == "deb");
        let metadata = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
        if !is_deb {
            if metadata.is_dir() {
                collect(top, &path, found)?;
            }
            continue;
        }
        if metadata.is_symlink() {
            let target =
                path.canonicalize().with_context(|| format!("{}: a link that leads nowhere", path.display()))?;
            ensure!(target.starts_with(top), "{}: a link that leads out of {}", path.display(), top.display());
        }
        found.push(path);
    }
    Ok(())
}

/// Reads a file. Fails if it is not a regular one, and never waits for one that is not.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let contents = || {
        // The target of a link was checked; if it is exchanged, this refuses a link.
        let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NOCTTY).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path.canonicalize()?)?;
        checked(file)
    };
    contents().with_context(|| path.display().to_string())
}

fn checked(file: File) -> Result<Vec<u8>> {
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "this is {}, not a regular file", kind(&metadata));
    ensure!(metadata.size() <= LARGEST, "it has {} bytes; at most {LARGEST} are read", metadata.size());
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= LARGEST, "it grows while it is read");
    Ok(bytes)
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode};

    use super::super::Deb;
    use super::*;

    /// The error about a directory with what this makes at a path `x.deb` in it.
    fn error(make: impl FnOnce(&Path)) -> String {
        let directory = tempfile::tempdir().unwrap();
        make(&directory.path().join("x.deb"));
        format!("{:#}", Deb::all_in(directory.path()).unwrap_err())
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let fifo = error(|path| rustix::fs::mkfifoat(CWD, path, Mode::RUSR).unwrap());
        assert!(fifo.contains("x.deb: this is a FIFO, not a regular file"), "{fifo}");
        let directory = error(|path| fs::create_dir(path).unwrap());
        assert!(directory.contains("x.deb: this is a directory, not a regular file"), "{directory}");
        let device = format!("{:#}", read(Path::new("/dev/zero")).unwrap_err());
        assert_eq!(device, "/dev/zero: this is a device, not a regular file");
    }

    #[test]
    fn a_link_out_of_the_directory_is_refused() {
        for target in ["/etc/passwd", "/dev/zero"] {
            let link = error(|path| symlink(target, path).unwrap());
            assert!(link.contains("x.deb: a link that leads out of "), "{link}");
        }
        let link = error(|path| symlink("x.deb", path).unwrap());
        assert!(link.contains("x.deb: a link that leads nowhere"), "{link}");
    }

    #[test]
    fn a_link_to_the_directory_itself_is_no_endless_way() {
        let directory = tempfile::tempdir().unwrap();
        symlink(".", directory.path().join("again")).unwrap();
        fs::write(directory.path().join("a.deb"), "").unwrap();
        symlink("a.deb", directory.path().join("b.deb")).unwrap();
        let found = debs(directory.path()).unwrap();
        assert_eq!(found, ["a.deb", "b.deb"].map(|name| directory.path().join(name)));
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let large = error(|path| File::create(path).unwrap().set_len(LARGEST + 1).unwrap());
        assert!(large.contains("x.deb: it has 2147483649 bytes; at most 2147483648 are read"), "{large}");
    }
}
