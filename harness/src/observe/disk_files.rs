//! Reads the files of a machine from its disk, which is mounted on this host. That takes a fraction of the time that the programs of the machine
//! take, and gives the facts of [`files.sh`](super::inventory::Section::Files).

use std::ffi::CStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// How much of a file is read at once.
const PIECE: usize = 256 * 1024;

/// The largest value of an extended attribute, and the largest list of names (xattr(7)).
const LARGEST_ATTRIBUTE: usize = 65_536;

/// The facts of every path below a root: `path` with type, mode, owner and target; `content` of regular files; `attribute`.
pub(super) struct DiskFiles<'a> {
    /// Where the disk is mounted.
    root: &'a Path,
    /// True if a path of the machine is left out, with all below it.
    is_left_out: &'a dyn Fn(&str) -> bool,
    /// A file of which the content is left out.
    key: &'a str,
    facts: Vec<String>,
    buffer: Vec<u8>,
}

impl<'a> DiskFiles<'a> {
    /// Reads all of them.
    ///
    /// # Errors
    /// If a file cannot be read: nothing may change files meanwhile.
    pub(super) fn facts(root: &'a Path, is_left_out: &'a dyn Fn(&str) -> bool, key: &'a str) -> Result<Vec<String>> {
        let mut files = Self { root, is_left_out, key, facts: Vec::new(), buffer: vec![0; PIECE] };
        files.add("/")?;
        Ok(files.facts)
    }

    fn add(&mut self, path: &str) -> Result<()> {
        if (self.is_left_out)(path) {
            return Ok(());
        }
        let on_host = self.root.join(path.trim_start_matches('/'));
        self.add_path(path, &on_host).with_context(|| on_host.display().to_string())
    }

    fn add_path(&mut self, path: &str, on_host: &Path) -> Result<()> {
        let metadata = fs::symlink_metadata(on_host)?;
        let kind = metadata.file_type();
        let target = if kind.is_symlink() { fs::read_link(on_host)? } else { "".into() };
        let (mode, user, group) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        let fact = format!("path {path} {} {mode:o} {user}:{group} {}", letter(&metadata), target.display());
        self.facts.push(fact.trim_end().to_owned());
        self.add_attributes(path, on_host)?;
        if kind.is_file() && path != self.key {
            let hash = self.hash(on_host)?;
            self.facts.push(format!("content {path} {hash}"));
        }
        if kind.is_dir() {
            for entry in fs::read_dir(on_host)? {
                let name = entry?.file_name();
                self.add(&format!("{}/{}", path.trim_end_matches('/'), name.to_string_lossy()))?;
            }
        }
        Ok(())
    }

    fn hash(&mut self, on_host: &Path) -> io::Result<String> {
        let (mut file, mut hash) = (File::open(on_host)?, Sha256::new());
        loop {
            match file.read(&mut self.buffer)? {
                0 => return Ok(hex::encode(hash.finalize())),
                count => hash.update(&self.buffer[..count]),
            }
        }
    }

    fn add_attributes(&mut self, path: &str, on_host: &Path) -> Result<()> {
        let length = match llistxattr(on_host, &mut [0_u8; 0]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => 0,
            Err(error) => return Err(error.into()),
        };
        if length == 0 {
            return Ok(());
        }
        let mut names = vec![0_u8; LARGEST_ATTRIBUTE];
        let length = llistxattr(on_host, &mut names)?;
        for name in names[..length].split_inclusive(|byte| *byte == 0) {
            let name = CStr::from_bytes_with_nul(name)?;
            let mut value = vec![0_u8; LARGEST_ATTRIBUTE];
            let length = lgetxattr(on_host, name, &mut value)?;
            self.facts.push(format!("attribute {path} {}=0x{}", name.to_string_lossy(), hex::encode(&value[..length])));
        }
        Ok(())
    }
}

/// The letter of find(1) for the type of a file.
fn letter(metadata: &Metadata) -> char {
    match metadata.mode() & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => 'f',
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn files_are_read_as_the_script_prints_them() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/left-out/below")).unwrap();
        fs::write(root.path().join("etc/a"), "a\n").unwrap();
        fs::write(root.path().join("etc/key"), "k").unwrap();
        symlink("a", root.path().join("etc/b")).unwrap();
        for (path, mode) in [("", 0o755), ("etc", 0o755), ("etc/a", 0o4644), ("etc/key", 0o600)] {
            fs::set_permissions(root.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        let owner = fs::metadata(root.path()).unwrap();
        let owner = format!("{}:{}", owner.uid(), owner.gid());
        let mut facts = DiskFiles::facts(root.path(), &|path| path == "/etc/left-out", "/etc/key").unwrap();
        facts.retain(|fact| !fact.starts_with("attribute "));
        facts.sort();
        assert_eq!(
            facts,
            [
                "content /etc/a 87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7".to_owned(),
                format!("path / d 755 {owner}"),
                format!("path /etc d 755 {owner}"),
                format!("path /etc/a f 4644 {owner}"),
                format!("path /etc/b l 777 {owner} a"),
                format!("path /etc/key f 600 {owner}"),
            ]
        );
    }
}
