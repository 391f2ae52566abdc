//! Restores the machine from rollback data.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::Statx;

use super::check::{MetadataReader, aspects, is_edited_in_place, is_same_inode};
use super::content::{clone, copy, no_link};
use super::manifest::{Line, SaveMethod, Stored};
use super::metadata::{Kind, Metadata, below, kind_and_mount, read_metadata, read_status_in};
use super::operations::{change, exchange, is_refused, make, private_directory, remove, rename};
use super::order::RestoreOrder;
use super::save::Percent;
use super::scope::{COPIED, DPKG, Lists, PathResolver, walk};
use super::stores::sync_filesystem;
use super::{Aspect, Damage, Store};
use crate::exit::Failure;
use crate::files::{Object, Place, Places};

/// What a rollback has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// The number of paths that were restored.
    pub changed: u64,
    /// The number of paths that the upgrade had added and that were removed.
    pub removed: u64,
    /// Files that a program wrote into instead of replacing them: they keep what it wrote.
    pub edited_in_place: Vec<PathBuf>,
    /// What is not as it was, because it cannot be replaced or may be data: what came below the product's own paths,
    /// directories that are not empty, what is mounted or immutable.
    pub left: Vec<PathBuf>,
}

impl Store {
    /// Restores the machine. If this is interrupted, calling it again does the rest.
    ///
    /// Damaged rollback data changes nothing. Copies are written first, while there may be too little space. Then each path is replaced
    /// by a rename, in the order of [`RestoreOrder`]. Paths that the upgrade added are removed after that, and dpkg's database is last.
    pub fn restore(&self, progress: &mut dyn FnMut(u8)) -> Result<Restored> {
        if let Some(damage) = self.check()?.into_iter().find(Damage::is_fatal) {
            let (Damage::Missing(path) | Damage::Corrupt(path) | Damage::EditedInPlace(path)) = damage;
            let failure = Failure::new(format!("what was saved of {} is damaged", path.display()));
            return Err(failure.remedy("A rollback is impossible. Restore a backup, or repair the upgrade.").into());
        }
        let mut work = Work {
            store: self,
            root: self.paths.root(),
            mark: format!(".{}-tmp", self.paths.package()),
            places: Places::default(),
            staged: HashMap::new(),
            aside: Vec::new(),
            filesystems: HashMap::new(),
            done: Restored::default(),
        };
        work.clear()?;
        work.run(progress).inspect_err(|_| {
            // The error that led here says more than one about this; what stays is removed the next time.
            let _ = work.clear();
        })?;
        Ok(work.done)
    }
}

/// A path that has to be replaced.
struct Job<'a> {
    index: usize,
    path: &'a Path,
    line: &'a Line,
    order: RestoreOrder,
    /// True if a directory is in its place.
    over_directory: bool,
}

struct Work<'a> {
    store: &'a Store,
    root: &'a Path,
    /// The suffix of temporary files.
    mark: String,
    /// Where paths are restored, and their temporary files.
    places: Places,
    /// The temporary file of each content that is written next to its target already.
    staged: HashMap<u64, (PathBuf, Metadata)>,
    /// The exchanged objects, which are removed together with the paths that the upgrade added.
    aside: Vec<PathBuf>,
    /// A directory on each mount that is concerned.
    filesystems: HashMap<u64, PathBuf>,
    done: Restored,
}

/// The differences of all paths, by the work that they need.
#[derive(Default)]
struct Survey<'a> {
    /// Directories that are missing, or in whose place something else is.
    directories: Vec<(usize, &'a Path, &'a Line)>,
    jobs: Vec<Job<'a>>,
    /// Paths of which only mode, owner, extended attributes or time differ; true if the time is restored.
    attributes: Vec<(&'a Path, &'a Line, Metadata, bool)>,
}

impl<'a> Work<'a> {
    fn run(&mut self, progress: &mut dyn FnMut(u8)) -> Result<()> {
        self.undo_diversions()?;
        let mut survey = self.survey()?;
        self.make_directories(&survey.directories, false)?;
        self.stage(&survey.jobs)?;
        self.sync()?;
        self.make_directories(&survey.directories, true)?;
        self.stage(&survey.jobs)?;
        survey.jobs.sort_by(|one, other| (one.order, one.path).cmp(&(other.order, other.path)));
        let mut percent = Percent::of(survey.jobs.len(), progress);
        let (dpkg, others): (Vec<_>, Vec<_>) = survey.jobs.iter().partition(|job| job.path.starts_with(DPKG));
        self.part(&others, &survey.attributes, false, &mut percent)?;
        self.sync()?;
        self.part(&dpkg, &survey.attributes, true, &mut percent)?;
        self.sync()
    }

    /// Restores one part of the machine: dpkg's database, or everything else.
    fn part(
        &mut self,
        jobs: &[&Job<'a>],
        attributes: &[(&Path, &Line, Metadata, bool)],
        dpkg: bool,
        percent: &mut Percent<'_>,
    ) -> Result<()> {
        // The parts of the C library have to change together.
        let (first, last): (Vec<&Job<'_>>, Vec<&Job<'_>>) = jobs.iter().partition(|job| job.order != RestoreOrder::C);
        for job in first {
            self.attempt(job.path, |work| work.prepare(job).and_then(|()| work.commit(job)))?;
            percent.step();
        }
        for job in &last {
            self.attempt(job.path, |work| work.prepare(job))?;
        }
        for job in &last {
            self.attempt(job.path, |work| work.commit(job))?;
            percent.step();
        }
        for (path, line, seen, time) in attributes.iter().filter(|(path, ..)| path.starts_with(DPKG) == dpkg) {
            let full = self.at(path);
            self.attempt(path, |work| {
                change(|| line.entry.put_attributes_if(&full, seen, *time))?;
                work.done.changed += 1;
                Ok(())
            })?;
        }
        self.remove_added(dpkg)?;
        let directories = self.store.manifest.lines.iter().filter(|(_, line)| line.entry.kind == Kind::Directory);
        for (path, line) in directories.filter(|(path, _)| path.starts_with(DPKG) == dpkg) {
            let full = self.at(path);
            if read_metadata(&full)?.is_some_and(|seen| !aspects(&line.entry, &seen.entry).is_empty()) {
                self.attempt(path, |_| change(|| Ok(line.entry.put_attributes(&Place::of(&full)?, true)?)))?;
            }
        }
        Ok(())
    }

    /// Removes new diversions of files whose package was not upgraded: the diverted file is the only copy.
    fn undo_diversions(&mut self) -> Result<()> {
        let (saved, now) = (self.store.saved_lists()?, Lists::now(self.root)?);
        let mut resolver = PathResolver::new(self.root);
        let kept = saved.paths(&mut resolver, |package| !self.store.changes(package))?;
        for diversion in now.diversions.iter().filter(|diversion| !saved.diversions.contains(diversion)) {
            let (from, to) = (resolver.resolve(&diversion.from)?, resolver.resolve(&diversion.to)?);
            let is_covered = |path: &Path| self.store.manifest.lines.contains_key(path);
            if kept.contains(&from) && !is_covered(&from) && !is_covered(&to) && read_metadata(&self.at(&to))?.is_some()
            {
                let back = || rename(&Place::of(&self.at(&to))?, &Place::of(&self.at(&from))?);
                back().with_context(|| from.display().to_string())?;
                self.done.changed += 1;
            }
        }
        Ok(())
    }

    fn survey(&mut self) -> Result<Survey<'a>> {
        let store = self.store;
        let mut survey = Survey::default();
        let counts = counts(store);
        let mut names: HashMap<u64, HashSet<Option<u64>>> = HashMap::new();
        let mut reader = MetadataReader::new(self.root);
        for (index, (path, line)) in store.manifest.lines.iter().enumerate() {
            let now = reader.read(path)?;
            if let Some(now) = now.as_ref().filter(|now| now.entry.kind == Kind::Directory) {
                self.filesystems.entry(now.mount).or_insert_with(|| below(self.root, path));
            }
            let linked = store.linked(line)?;
            let is_edited = is_edited_in_place(line, linked.as_ref());
            if is_edited {
                self.done.edited_in_place.push(path.clone());
            }
            let is_right =
                now.as_ref().map_or(Ok(false), |now| self.is_right(path, line, now, linked.as_ref(), &counts))?;
            if let Some(object) = object_of_several(line, &counts) {
                names.entry(object).or_default().insert(now.as_ref().filter(|_| is_right).map(|now| now.inode));
            }
            match now {
                Some(now) if is_right && now.entry.kind == Kind::Directory => {}
                _ if line.entry.kind == Kind::Directory => survey.directories.push((index, path, line)),
                Some(now) if is_right => {
                    let differs = aspects(&line.entry, &now.entry);
                    if differs.iter().any(|aspect| *aspect != Aspect::Time || !is_edited) {
                        survey.attributes.push((path, line, now, !is_edited));
                    }
                }
                now => {
                    let over_directory = now.as_ref().is_some_and(|now| now.entry.kind == Kind::Directory);
                    let order = RestoreOrder::of(path, &line.entry, now.is_none());
                    survey.jobs.push(Job { index, path, line, order, over_directory });
                }
            }
        }
        // Names of one inode come back together, or they would be names of several.
        let split: HashSet<u64> =
            names.into_iter().filter(|(_, inodes)| inodes.len() > 1).map(|(object, _)| object).collect();
        let replaced: BTreeSet<&Path> = survey.jobs.iter().map(|job| job.path).collect();
        let lines = store.manifest.lines.iter().enumerate();
        let together: Vec<_> = lines
            .filter(|(_, (path, line))| {
                object_of_several(line, &counts).is_some_and(|object| split.contains(&object))
                    && !replaced.contains(path.as_path())
            })
            .map(|(index, (path, line))| Job {
                index,
                path,
                line,
                order: RestoreOrder::of(path, &line.entry, false),
                over_directory: false,
            })
            .collect();
        survey.attributes.retain(|(path, ..)| !together.iter().any(|job| job.path == *path));
        survey.jobs.extend(together);
        Ok(survey)
    }

    /// True if the path needs no replacement.
    fn is_right(
        &self,
        path: &Path,
        line: &Line,
        now: &Metadata,
        linked: Option<&Statx>,
        counts: &HashMap<u64, u32>,
    ) -> Result<bool> {
        let Kind::File { size, inode } = line.entry.kind else {
            // A pipe of another user may be open, like a file.
            let is_safe =
                matches!(now.entry.kind, Kind::Directory | Kind::Symlink { .. }) || line.entry.may_own(&now.entry);
            return Ok(line.entry.kind == now.entry.kind && is_safe);
        };
        let (Kind::File { size: now_size, .. }, Some(stored)) = (&now.entry.kind, &line.stored) else {
            return Ok(false);
        };
        if stored.how == SaveMethod::Link {
            return Ok(linked.is_some_and(|kept| is_same_inode(kept, now)));
        }
        if !line.entry.may_own(&now.entry) {
            return Ok(false);
        }
        // A name of something else may have the same content, and must not have the same inode.
        let is_alone = now.inode == inode || counts.get(&stored.object).is_some_and(|count| now.names <= *count);
        Ok(is_alone && *now_size == size && self.store.has_content(path, line, now)?)
    }

    /// Writes contents that cannot be linked to temporary files next to their targets, where the directory exists.
    fn stage(&mut self, jobs: &[Job<'_>]) -> Result<()> {
        for job in jobs {
            let Some(stored) = job.line.stored.as_ref().filter(|stored| stored.how != SaveMethod::Link) else {
                continue;
            };
            let temporary = self.temporary(job.index, job.path);
            // The directory may be a link now, which `make_directories` converts later.
            if read_status_in(&self.places, &temporary)?.is_some()
                || !is_directory(temporary.parent().unwrap_or(&temporary))?
            {
                continue;
            }
            self.attempt(job.path, |work| work.write(stored, job.line, &temporary))?;
        }
        Ok(())
    }

    /// Writes a content to a temporary file; or makes it another name of one that has been written already.
    fn write(&mut self, stored: &Stored, line: &Line, temporary: &Path) -> Result<()> {
        let place = self.places.of(temporary)?;
        if let Some((there, written)) = self.staged.get(&stored.object)
            && change(|| Ok(Place::of(there).and_then(|there| there.link_to(&place)).is_ok()))?
        {
            if written.is_at(temporary)? {
                return Ok(());
            }
            // Another user has put something else there.
            remove(temporary)?;
        }
        let object = self.store.objects.of(&self.store.object(stored))?.open()?;
        let file = change(|| {
            let file = place.create()?;
            match stored.how {
                SaveMethod::Clone => clone(&object, &file)?,
                SaveMethod::Link | SaveMethod::Copy { .. } => drop(copy(&object, &file)?),
            }
            Ok(file)
        })?;
        let file = Object::from(OwnedFd::from(file));
        change(|| Ok(line.entry.give_to(&file, true)?))?;
        self.staged.insert(stored.object, (temporary.to_owned(), Metadata::of(&file)?));
        Ok(())
    }

    /// Creates the temporary object of a path, unless [`Self::stage`] has written it.
    fn prepare(&mut self, job: &Job<'_>) -> Result<()> {
        let temporary = self.temporary(job.index, job.path);
        let Some(stored) = &job.line.stored else { return make(&job.line.entry, &temporary) };
        if stored.how != SaveMethod::Link {
            return Ok(());
        }
        let object = self.store.objects.of(&self.store.object(stored))?;
        // dpkg has taken the setuid bits away. The time is the content's, and that is the inode's.
        change(|| Ok(job.line.entry.put_attributes(&object, false)?))?;
        match change(|| Ok(object.link_to(&self.places.of(&temporary)?)))? {
            Err(error) if no_link(&error) => self.write(stored, job.line, &temporary),
            linked => Ok(linked?),
        }
    }

    /// Renames the prepared object onto its target.
    fn commit(&mut self, job: &Job<'_>) -> Result<()> {
        let (temporary, full) = (self.temporary(job.index, job.path), self.at(job.path));
        if read_status_in(&self.places, &temporary)?.is_none() {
            // It could not be prepared, and that has been said.
            return Ok(());
        }
        let (new, old) = (self.places.of(&temporary)?, self.places.of(&full)?);
        if !job.over_directory {
            rename(&new, &old)?;
        } else if exchange(&new, &old)? {
            self.aside.push(temporary);
            self.places.forget();
        } else {
            remove_tree(&full)?;
            rename(&new, &old)?;
        }
        self.done.changed += 1;
        Ok(())
    }

    /// Makes the directories that are missing; with `convert` also those in whose place something else is, and what is below.
    fn make_directories(&mut self, directories: &[(usize, &Path, &Line)], convert: bool) -> Result<()> {
        for (index, path, line) in directories {
            let full = self.at(path);
            let there = read_metadata(&full)?;
            if there.as_ref().is_some_and(|seen| seen.entry.kind == Kind::Directory) {
                continue;
            }
            if there.is_some() && convert {
                self.attempt(path, |work| work.convert(*index, path, line))?;
            } else if there.is_none() && is_directory(full.parent().unwrap_or(&full))? {
                self.attempt(path, |work| {
                    make(&line.entry, &full)?;
                    work.done.changed += 1;
                    Ok(())
                })?;
            }
        }
        self.places.forget();
        Ok(())
    }

    /// Replaces an object by the directory that was there.
    fn convert(&mut self, index: usize, path: &Path, line: &Line) -> Result<()> {
        let (temporary, full) = (self.temporary(index, path), self.at(path));
        make(&line.entry, &temporary)?;
        let (new, old) = (Place::of(&temporary)?, Place::of(&full)?);
        if exchange(&new, &old)? {
            remove(&temporary)?;
        } else {
            remove(&full)?;
            rename(&new, &old)?;
        }
        self.done.changed += 1;
        Ok(())
    }

    /// Removes what came with the upgrade: files first, then directories, the deepest first, if they are empty.
    fn remove_added(&mut self, dpkg: bool) -> Result<()> {
        for aside in std::mem::take(&mut self.aside) {
            remove_tree(&aside)?;
        }
        let added = self.store.added()?;
        // Paths that were added after the upgrade belong to the admin, and data may have been written since.
        let finalized = self.store.when_finalized()?;
        let is_data =
            |path: &PathBuf| path.starts_with("/var") && !COPIED.iter().any(|registry| path.starts_with(registry));
        let is_later =
            |path: &PathBuf| finalized.as_ref().is_some_and(|after| !after.lines.contains_key(path) || is_data(path));
        let (later, paths): (Vec<PathBuf>, Vec<PathBuf>) = added.paths.into_iter().partition(is_later);
        if dpkg {
            self.done.left.extend(added.data.into_iter().chain(later));
        }
        let mut directories = Vec::new();
        for path in paths.into_iter().filter(|path| path.starts_with(DPKG) == dpkg) {
            match read_metadata(&self.at(&path))? {
                Some(seen) if seen.entry.kind == Kind::Directory => directories.push(path),
                _ => self.remove_one(path)?,
            }
        }
        directories.into_iter().rev().try_for_each(|path| self.remove_one(path))
    }

    fn remove_one(&mut self, path: PathBuf) -> Result<()> {
        if remove(&self.at(&path)).with_context(|| path.display().to_string())? {
            self.done.removed += 1;
        } else {
            self.done.left.push(path);
        }
        Ok(())
    }

    /// Removes the temporary files of an interrupted rollback.
    fn clear(&self) -> Result<()> {
        let places = Places::default();
        for (index, (path, line)) in self.store.manifest.lines.iter().enumerate() {
            let temporary = self.temporary(index, path);
            if !line.entry.kind.is_file() && line.entry.kind != Kind::Directory {
                remove_tree(&private_directory(&temporary))?;
            }
            match change(|| Ok(places.of(&temporary).and_then(|place| place.remove_file())))? {
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => remove_tree(&temporary)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Continues without a path that cannot be replaced.
    fn attempt(&mut self, path: &Path, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        match work(self) {
            Err(error) if error.downcast_ref::<io::Error>().is_some_and(is_refused) => {
                self.done.left.push(path.to_owned());
                Ok(())
            }
            done => done.with_context(|| path.display().to_string()),
        }
    }

    fn sync(&self) -> Result<()> {
        self.filesystems.values().try_for_each(|directory| sync_filesystem(directory))
    }

    fn at(&self, path: &Path) -> PathBuf {
        below(self.root, path)
    }

    /// The temporary name for a path: its number, since a longer name may be too long.
    fn temporary(&self, index: usize, path: &Path) -> PathBuf {
        self.at(path).with_file_name(format!(".{index}{}", self.mark))
    }
}

/// Removes a directory with all in it, but nothing that is mounted there.
fn remove_tree(top: &Path) -> Result<()> {
    let (mut directories, mut files) = (Vec::new(), Vec::new());
    walk(Path::new("/"), top, &|_, _| true, &mut |path, kind| {
        if kind.is_dir() { &mut directories } else { &mut files }.push(path.to_owned());
    })?;
    for path in files.iter().chain(directories.iter().rev()) {
        remove(path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// True for a directory; a link to one is none.
fn is_directory(path: &Path) -> Result<bool> {
    Ok(kind_and_mount(path)?.is_some_and(|(kind, _)| kind.is_dir()))
}

/// The number of names of each content, without links.
fn counts(store: &Store) -> HashMap<u64, u32> {
    let mut counts = HashMap::new();
    for stored in store.manifest.lines.values().filter_map(|line| line.stored.as_ref()) {
        if stored.how != SaveMethod::Link {
            *counts.entry(stored.object).or_default() += 1;
        }
    }
    counts
}

/// The content of a file that is one inode under several names.
fn object_of_several(line: &Line, counts: &HashMap<u64, u32>) -> Option<u64> {
    let object = line.stored.as_ref()?.object;
    counts.get(&object).is_some_and(|count| *count > 1).then_some(object)
}
