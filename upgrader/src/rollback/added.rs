//! Finds the paths that an upgrade added.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::FileType;

use super::content::content;
use super::metadata::{below, is_mounted, read_status_in};
use super::scope::{DPKG, Exclusions, INFO, Lists, PathResolver, entries, first_levels, walk, walked_for_added};
use super::{Store, stores};
use crate::files::Places;
use crate::system::dpkg;

/// The paths that were added since the rollback data was saved.
pub(super) struct Added {
    /// Paths that the upgrade added, parents first.
    pub(super) paths: BTreeSet<PathBuf>,
    /// Paths that were added below the ones that the product declares: data of which there may be no copy.
    pub(super) data: BTreeSet<PathBuf>,
}

impl Store {
    /// Finds the paths that are neither covered nor owned by a package that the upgrade did not change.
    pub(super) fn added(&self) -> Result<Added> {
        let root = self.paths.root();
        let declared: Vec<PathBuf> = self.manifest.header.declared.iter().map(|path| path.path().to_owned()).collect();
        let forbidden = Exclusions::new(&self.paths, &[PathBuf::from("/usr/local")]);
        let mut resolver = PathResolver::new(root);
        let declared = declared.iter().map(|path| resolver.resolve(path)).collect::<Result<Vec<_>>>()?;
        let now = Lists::now(root)?;
        let own = self.paths.package();
        let mut known = self.saved_lists()?.paths(&mut resolver, |package| !self.changes(package))?;
        known.extend(now.paths(&mut resolver, |package| package == own)?);

        let is_new = |path: &Path| !self.manifest.lines.contains_key(path) && !known.contains(path);
        let places = Places::default();

        let mut added = Added { paths: BTreeSet::new(), data: BTreeSet::new() };
        // What is in there is the admin's; packages make directories for it.
        walk(root, Path::new("/usr/local"), &|_, kind| kind.is_dir(), &mut |path, _| {
            if is_new(path) {
                added.paths.insert(path.to_owned());
            }
        })?;
        // Sockets come and go with the programs that listen on them.
        let is_kept = |path: &Path, kind: FileType| !kind.is_socket() && !forbidden.has(path);
        let mut find = |path: &Path| {
            if is_new(path) {
                let is_data = declared.iter().any(|top| path.starts_with(top));
                if is_data { &mut added.data } else { &mut added.paths }.insert(path.to_owned());
            }
        };
        for top in walked_for_added() {
            walk(root, top, &is_kept, &mut |path, _| find(path))?;
        }
        for (path, kind) in first_levels().map(|top| entries(root, top)).collect::<Result<Vec<_>>>()?.concat() {
            let is_mount = read_status_in(&places, &below(root, &path))?.is_some_and(|now| is_mounted(&now));
            if is_kept(&path, kind) && !is_mount && is_new(&path) {
                walk(root, &path, &is_kept, &mut |path, _| find(path))?;
            }
        }
        for top in &declared {
            walk(root, top, &is_kept, &mut |path, _| find(path))?;
        }
        for path in now.paths(&mut resolver, |package| self.changes(package))? {
            if !is_new(&path) || forbidden.has(&path) {
                continue;
            }
            let now = read_status_in(&places, &below(root, &path))?;
            if now.is_some_and(|now| !is_mounted(&now)) {
                find(&path);
            }
        }
        Ok(added)
    }

    /// True for a package that the upgrade changed.
    pub(super) fn changes(&self, package: &str) -> bool {
        self.manifest.header.packages.iter().any(|name| name.bare() == package)
    }

    /// The lists of files as dpkg had them when the rollback data was saved.
    pub(super) fn saved_lists(&self) -> Result<Lists> {
        let mut lists = Vec::new();
        for (path, line) in &self.manifest.lines {
            if path.parent() == Some(Path::new(INFO))
                && let Some(package) = path.file_name().and_then(dpkg::package_of_list)
                && let Some(stored) = &line.stored
            {
                lists.push((package.to_owned(), self.read(stored)?));
            }
        }
        let diversions = self.manifest.lines.get(&Path::new(DPKG).join("diversions"));
        let diversions = diversions.and_then(|line| line.stored.as_ref());
        let diversions = diversions.map(|stored| self.read(stored)).transpose()?.unwrap_or_default();
        Ok(Lists { lists, diversions: dpkg::parse_diversions(&diversions) })
    }

    /// Where the content of a path is kept.
    pub(super) fn object(&self, stored: &super::manifest::Stored) -> PathBuf {
        let place = self.manifest.header.places.get(stored.place).map_or(Path::new(""), |place| place.path());
        stores::object(place, stored.object)
    }

    fn read(&self, stored: &super::manifest::Stored) -> Result<Vec<u8>> {
        content(&self.object(stored))
    }
}
