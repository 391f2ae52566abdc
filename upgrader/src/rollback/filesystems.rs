//! Checks before a rollback that each filesystem can take what it writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::statvfs;

use super::Store;
use super::check::MetadataReader;
use super::manifest::{Line, SaveMethod};
use super::metadata::{Kind, Metadata, below, read_metadata, read_status_in};
use crate::exit::{Exit, Failure};
use crate::model::size::size;
use crate::system::filesystems;

/// A filesystem on which something is restored.
struct Filesystem {
    /// A directory on it.
    place: PathBuf,
    /// How much is copied to it. Links and clones need no space.
    bytes: u64,
}

impl Store {
    /// Changes nothing.
    ///
    /// # Errors
    /// A [`Failure`] if a filesystem is read-only, or has too little space.
    pub(crate) fn check_filesystems(&self) -> Result<()> {
        let command = self.paths.package();
        for Filesystem { place, bytes } in self.filesystems()?.into_values() {
            let shown = place.display();
            let now = statvfs(&place).with_context(|| shown.to_string())?;
            let free = now.f_bavail.saturating_mul(now.f_frsize);
            let (what, remedy) = if filesystems::is_read_only(&place)? {
                let how = filesystems::how_to_make_writable(&place);
                (
                    format!("{shown} is on a filesystem that is mounted read-only"),
                    format!("{how} Then `{command} rollback`."),
                )
            } else if free < bytes {
                let what = format!("the filesystem of {shown} has {} free, and it needs {}", size(free), size(bytes));
                (what, format!("Make room (`du -xhd1 {shown}` shows what is big), then `{command} rollback`."))
            } else {
                continue;
            };
            let failure = Failure::new(format!("cannot roll back: {what}"));
            return Err(failure.remedy(remedy).exit(Exit::NeedsHuman).into());
        }
        Ok(())
    }

    /// The filesystems of all paths, by the identifiers of their mounts.
    fn filesystems(&self) -> Result<BTreeMap<u64, Filesystem>> {
        let mut filesystems = BTreeMap::new();
        let mut reader = MetadataReader::new(self.paths.root());
        for (path, line) in &self.manifest.lines {
            let now = reader.read(path)?;
            let bytes = self.copied(line, now.as_ref())?;
            if bytes == 0 && now.as_ref().is_none_or(|now| now.entry.kind != Kind::Directory) {
                continue;
            }
            let Some((place, mount)) = self.directory_of(path)? else { continue };
            filesystems.entry(mount).or_insert(Filesystem { place, bytes: 0 }).bytes += bytes;
        }
        Ok(filesystems)
    }

    /// How many bytes have to be copied to restore a path. Holes take none.
    fn copied(&self, line: &Line, now: Option<&Metadata>) -> Result<u64> {
        let copy = line.stored.as_ref().filter(|stored| matches!(stored.how, SaveMethod::Copy { .. }));
        let is_as_it_was = now.is_some_and(|now| now.entry.mtime == line.entry.mtime);
        let Some(stored) = copy.filter(|_| !is_as_it_was) else { return Ok(0) };
        Ok(read_status_in(&self.objects, &self.object(stored))?.map_or(0, |object| object.stx_blocks * 512))
    }

    /// The nearest directory that exists at or above a path, and the identifier of its mount.
    fn directory_of(&self, path: &Path) -> Result<Option<(PathBuf, u64)>> {
        for above in path.ancestors() {
            let full = below(self.paths.root(), above);
            if let Some(seen) = read_metadata(&full)?.filter(|seen| seen.entry.kind == Kind::Directory) {
                return Ok(Some((full, seen.mount)));
            }
        }
        Ok(None)
    }
}
