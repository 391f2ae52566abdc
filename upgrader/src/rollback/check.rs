//! Checks rollback data, and compares the machine with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FileType, Statx};

use super::content::{are_same, has_sum};
use super::manifest::{Header, Line, Manifest, SaveMethod, Stored};
use super::metadata::{Kind, Metadata, PathEntry, RawPath, below, is_of_absent, read_metadata_in, read_status_in};
use super::scope::INFO;
use super::{Aspect, Damage, PathChange, PathDifference, Scope, Store};
use crate::files::{self, Places};
use crate::system::dpkg;

impl Store {
    /// Finds the damage that affects a rollback. Changes nothing.
    pub fn check(&self) -> Result<Vec<Damage>> {
        let mut damages = Vec::new();
        let places = self.manifest.header.places.iter();
        let trusted: Vec<bool> = places.map(|place| matches!(files::changeable(place.path()), Ok(None))).collect();
        for (path, line) in &self.manifest.lines {
            if let Some(stored) = &line.stored
                && trusted.get(stored.place) == Some(&false)
            {
                damages.push(Damage::Corrupt(path.clone()));
                continue;
            }
            let Some(stored) = &line.stored else {
                if line.entry.kind.is_file() {
                    damages.push(Damage::Missing(path.clone()));
                }
                continue;
            };
            damages.extend(self.damage(path, &line.entry, stored)?);
        }
        Ok(damages)
    }

    fn damage(&self, path: &Path, entry: &PathEntry, stored: &Stored) -> Result<Option<Damage>> {
        let object = self.object(stored);
        let Some(there) = read_status_in(&self.objects, &object)? else {
            return Ok(Some(Damage::Missing(path.to_owned())));
        };
        let is_as_it_was = entry.is_unchanged(&there);
        Ok(match &stored.how {
            _ if !FileType::from_raw_mode(there.stx_mode.into()).is_file() => Some(Damage::Corrupt(path.to_owned())),
            SaveMethod::Link => (!is_as_it_was).then(|| Damage::EditedInPlace(path.to_owned())),
            SaveMethod::Clone => (!is_as_it_was).then(|| Damage::Corrupt(path.to_owned())),
            SaveMethod::Copy { sha256 } => {
                let is_whole = size(entry) == Some(there.stx_size) && has_sum(&object, None, sha256)?;
                (!is_whole).then(|| Damage::Corrupt(path.to_owned()))
            }
        })
    }

    /// The files whose saved content is lost, because a program wrote into the inode to which the rollback data has a link.
    pub fn edited_in_place(&self) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for (path, line) in &self.manifest.lines {
            if is_edited_in_place(line, self.linked(line)?.as_ref()) {
                paths.push(path.clone());
            }
        }
        Ok(paths)
    }

    /// The status of a content that was saved as a link; none of others.
    pub(super) fn linked(&self, line: &Line) -> Result<Option<Statx>> {
        let stored = line.stored.as_ref().filter(|stored| stored.how == SaveMethod::Link);
        stored.map_or(Ok(None), |stored| read_status_in(&self.objects, &self.object(stored)))
    }

    /// The differences between the machine and the rollback data.
    pub fn compare(&self) -> Result<Vec<PathDifference>> {
        let mut differences =
            differences(self.paths.root(), &self.manifest.lines, |path, line, now| self.has_content(path, line, now))?;
        let added = self.added()?;
        differences.extend(added.paths.into_iter().chain(added.data).map(is_added));
        differences.sort();
        Ok(differences)
    }

    /// True if a file of the right size has the content that was saved.
    pub(super) fn has_content(&self, path: &Path, line: &Line, now: &Metadata) -> Result<bool> {
        let Some(stored) = &line.stored else { return Ok(false) };
        let (full, object) = (below(self.paths.root(), path), self.object(stored));
        let was = match line.entry.kind {
            Kind::File { inode, .. } => inode,
            _ => 0,
        };
        let has = match &stored.how {
            SaveMethod::Link => {
                let kept = read_status_in(&self.objects, &object)?;
                let kept = kept.with_context(|| format!("{}: it is gone", object.display()))?;
                if !line.entry.is_unchanged(&kept) {
                    Ok(false)
                } else if is_same_inode(&kept, now) {
                    Ok(true)
                } else {
                    are_same(&full, &object)
                }
            }
            SaveMethod::Clone if now.inode == was && now.entry.mtime == line.entry.mtime => Ok(true),
            SaveMethod::Clone => are_same(&full, &object),
            SaveMethod::Copy { sha256 } => has_sum(&full, size(&line.entry), sha256),
        };
        match has {
            // Another user has put something else there meanwhile.
            Err(error) if is_of_absent(&error) => Ok(false),
            has => has,
        }
    }

    /// Records the state of the machine after the upgrade, for [`Store::since`].
    pub fn finalize(&self) -> Result<()> {
        let added = self.added()?;
        let mut lines = BTreeMap::new();
        let paths: BTreeSet<&PathBuf> = self.manifest.lines.keys().chain(&added.paths).chain(&added.data).collect();
        let mut reader = MetadataReader::new(self.paths.root());
        for path in paths {
            if let Some(Metadata { entry, .. }) = reader.read(path)? {
                lines.insert(path.clone(), Line { path: RawPath::from(path.as_path()), entry, stored: None });
            }
        }
        let declared = self.manifest.header.declared.iter().map(|path| path.path().to_owned()).collect();
        let scope = Scope { packages: self.manifest.header.packages.clone(), declared };
        Manifest { header: Header::new(&scope, &[]), lines }.write(&self.finalized())
    }

    /// The changes since the rollback data was finalized, which a rollback would revert, too. None if it was not finalized.
    pub fn since(&self) -> Result<Vec<PathDifference>> {
        let Some(finalized) = self.when_finalized()? else { return Ok(Vec::new()) };
        let mut differences = differences(self.paths.root(), &finalized.lines, |_, line, now| {
            let Kind::File { inode, .. } = line.entry.kind else { return Ok(false) };
            Ok(inode == now.inode && line.entry.mtime == now.entry.mtime)
        })?;
        let added = self.added()?;
        let added = added.paths.into_iter().chain(added.data);
        differences.extend(added.filter(|path| !finalized.lines.contains_key(path)).map(is_added));
        differences.sort();
        Ok(differences)
    }

    /// The packages that were installed, upgraded or removed since the rollback data was finalized. dpkg's database was saved, but not
    /// their files.
    pub fn packages_since(&self) -> Result<Vec<String>> {
        let lists = self.since()?.into_iter().filter_map(|difference| {
            let list = difference.path.strip_prefix(INFO).ok()?;
            dpkg::package_of_list(list.as_os_str()).map(str::to_owned)
        });
        Ok(lists.filter(|name| *name != self.paths.package()).collect())
    }

    /// The state of the machine after the upgrade; none if the rollback data was not finalized.
    pub(super) fn when_finalized(&self) -> Result<Option<Manifest>> {
        Manifest::read(&self.finalized())
    }

    fn finalized(&self) -> PathBuf {
        self.paths.rollback().join("finalized")
    }
}

fn is_added(path: PathBuf) -> PathDifference {
    PathDifference { path, change: PathChange::Added }
}

/// Compares what is there with a manifest.
fn differences(
    root: &Path,
    lines: &BTreeMap<PathBuf, Line>,
    has_content: impl Fn(&Path, &Line, &Metadata) -> Result<bool>,
) -> Result<Vec<PathDifference>> {
    let mut differences = Vec::new();
    let mut reader = MetadataReader::new(root);
    for (path, line) in lines {
        let change = match reader.read(path)? {
            None => PathChange::Removed,
            Some(now) if !now.entry.kind.is_like(&line.entry.kind) => PathChange::Type,
            Some(now) => {
                let mut aspects = aspects(&line.entry, &now.entry);
                let is_content = line.entry.kind.is_file()
                    && (size(&line.entry) != size(&now.entry) || !has_content(path, line, &now)?);
                if is_content {
                    aspects.insert(0, Aspect::Content);
                }
                if aspects.is_empty() {
                    continue;
                }
                PathChange::Aspects(aspects)
            }
        };
        differences.push(PathDifference { path: path.clone(), change });
    }
    Ok(differences)
}

/// The aspects in which two entries of one type differ, without the content of files.
pub(super) fn aspects(was: &PathEntry, now: &PathEntry) -> Vec<Aspect> {
    let mut aspects = Vec::new();
    let mut compare = |aspect, same: bool| {
        if !same {
            aspects.push(aspect);
        }
    };
    compare(Aspect::Target, was.kind.is_file() || was.kind == now.kind);
    compare(Aspect::Mode, was.mode == now.mode);
    compare(Aspect::Owner, (was.uid, was.gid) == (now.uid, now.gid));
    compare(Aspect::Xattrs, was.xattrs == now.xattrs);
    compare(Aspect::Time, was.mtime == now.mtime);
    aspects
}

pub(super) fn is_same_inode(one: &Statx, other: &Metadata) -> bool {
    one.stx_ino == other.inode && one.stx_mnt_id == other.mount
}

/// True if a program wrote into the inode to which the rollback data has a link.
pub(super) fn is_edited_in_place(line: &Line, linked: Option<&Statx>) -> bool {
    linked.is_some_and(|it| FileType::from_raw_mode(it.stx_mode.into()).is_file() && !line.entry.is_unchanged(it))
}

fn size(entry: &PathEntry) -> Option<u64> {
    match entry.kind {
        Kind::File { size, .. } => Some(size),
        _ => None,
    }
}

/// Reads metadata of paths in their order. Does not follow links: there is nothing below a link that was a directory.
pub(super) struct MetadataReader<'a> {
    root: &'a Path,
    places: Places,
    no_directory: Option<PathBuf>,
}

impl<'a> MetadataReader<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root, places: Places::default(), no_directory: None }
    }

    pub(super) fn read(&mut self, path: &Path) -> Result<Option<Metadata>> {
        if self.no_directory.as_ref().is_some_and(|above| path.starts_with(above)) {
            return Ok(None);
        }
        let seen = read_metadata_in(&self.places, &below(self.root, path))?;
        if seen.as_ref().is_none_or(|seen| seen.entry.kind != Kind::Directory) {
            self.no_directory = Some(path.to_owned());
        }
        Ok(seen)
    }
}
