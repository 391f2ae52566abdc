//! The directories with rollback data, one on each filesystem, and saving files in them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::syncfs;

use super::content::{can_clone, clone, content, copy, create, no_clone, no_link, open_seen};
use super::manifest::{Manifest, SaveMethod, Stored};
use super::metadata::{Identity, Kind, Metadata, RawPath, below, is_absent, is_of_absent, mount_of, read_metadata};
use super::scope::{Coverage, SMALL, directory_name};
use crate::files::{self, Place, Places};
use crate::paths::Paths;
use crate::system::remove_file;

/// The path of a saved content.
pub(super) fn object(store: &Path, object: u64) -> PathBuf {
    store.join("files").join(object.to_string())
}

/// How often a file that is replaced meanwhile is looked at again.
const ATTEMPTS: u32 = 5;

/// The file in which the stores on other filesystems are listed before they are made, one path a line, as JSON.
const LIST: &str = "places";

/// The directories on other filesystems. A truncated line is ignored: its directory was not made yet.
pub(super) fn listed(store: &Path) -> Result<Vec<PathBuf>> {
    let list = store.join(LIST);
    let text = match content(&list) {
        Err(error) if is_of_absent(&error) => return Ok(Vec::new()),
        text => text?,
    };
    let paths = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<RawPath>(line).ok());
    Ok(paths.map(|path| path.path().to_owned()).collect())
}

/// The directories, one on each filesystem.
pub(super) struct Stores<'a> {
    paths: &'a Paths,
    list: File,
    /// The directory of each; the first is the one with the manifest.
    pub(super) directories: Vec<PathBuf>,
    /// What can be done on which mount.
    of_mount: HashMap<u64, MountMethod>,
    /// What has several names.
    several: HashMap<Identity, (Stored, u64)>,
    next: u64,
    /// Where files are taken from, and where they are stored.
    sources: Places,
    objects: Places,
}

impl<'a> Stores<'a> {
    pub(super) fn create(paths: &'a Paths) -> Result<Self> {
        let own = paths.rollback();
        let create = || -> io::Result<File> {
            files::make_own(&paths.state())?;
            make_private(&own)?;
            create(&own.join(LIST))
        };
        let list = create().with_context(|| own.display().to_string())?;
        let mut places = Self {
            paths,
            list,
            directories: vec![own.clone()],
            of_mount: HashMap::new(),
            several: HashMap::new(),
            next: 0,
            sources: Places::default(),
            objects: Places::default(),
        };
        let mount = mount_of(&own)?.unwrap_or_default();
        places.of_mount.insert(mount, MountMethod::of(&own, 0));
        Ok(places)
    }

    /// Opens existing rollback data to add to it. Files of an interrupted attempt do no harm: numbers go on after the highest.
    pub(super) fn reopen(paths: &'a Paths, manifest: &Manifest) -> Result<Self> {
        let list = paths.rollback().join(LIST);
        let list = files::append(&list, 0o600).with_context(|| list.display().to_string())?;
        let directories: Vec<PathBuf> = manifest.header.places.iter().map(|place| place.path().to_owned()).collect();
        let mut places = Self {
            paths,
            list,
            directories,
            of_mount: HashMap::new(),
            several: HashMap::new(),
            next: 0,
            sources: Places::default(),
            objects: Places::default(),
        };
        for (number, directory) in places.directories.iter().enumerate() {
            let mount = mount_of(directory)?.unwrap_or_default();
            places.of_mount.insert(mount, MountMethod::of(directory, number));
            for (name, _) in
                files::entries(&directory.join("files")).with_context(|| directory.display().to_string())?
            {
                let object = name.to_str().and_then(|name| name.parse::<u64>().ok()).unwrap_or_default();
                places.next = places.next.max(object.saturating_add(1));
            }
        }
        Ok(places)
    }

    /// Stores a file, and says how; with the size that is stored. `None` if it is gone, or is replaced faster than it can be read. If it
    /// was replaced since it was `seen`, that is the metadata of the new one afterwards.
    pub(super) fn store(
        &mut self,
        path: &Path,
        seen: &mut Metadata,
        coverage: Coverage,
    ) -> Result<Option<(Stored, u64)>> {
        let full = below(self.paths.root(), path);
        for _ in 0..ATTEMPTS {
            let key = seen.identity();
            if let Some(stored) = self.several.get(&key).filter(|_| seen.names > 1) {
                return Ok(Some(stored.clone()));
            }
            let stored = match self.put(path, &full, seen, coverage) {
                Err(error) if is_of_absent(&error) => None,
                stored => stored.with_context(|| full.display().to_string())?,
            };
            if let Some(stored) = stored {
                if seen.names > 1 {
                    self.several.insert(key, stored.clone());
                }
                return Ok(Some(stored));
            }
            let Some(now) = read_metadata(&full)?.filter(|now| now.entry.kind.is_file()) else { return Ok(None) };
            *seen = now;
        }
        Ok(None)
    }

    /// `None` if another file is there than the one that was seen.
    fn put(&mut self, path: &Path, full: &Path, seen: &Metadata, coverage: Coverage) -> Result<Option<(Stored, u64)>> {
        let Kind::File { size, .. } = seen.entry.kind else { anyhow::bail!("no file") };
        let from = self.sources.of(full)?;
        let number = self.next;
        self.next += 1;
        let done = |how, place, size| Ok(Some((Stored { how, place, object: number }, size)));
        if matches!(coverage, Coverage::Link | Coverage::CopySmall) {
            match self.on_mount(path, seen.mount)? {
                MountMethod::Clone(place) => {
                    let Some(file) = open_seen(&from, seen)? else { return Ok(None) };
                    let to = object(&self.directories[place], number);
                    match create(&to).map_err(anyhow::Error::from).and_then(|to| clone(&file, &to)) {
                        Ok(()) => {
                            seen.entry.put_time(&to)?;
                            return done(SaveMethod::Clone, place, size);
                        }
                        Err(error) if !no_clone(&error) => return Err(error),
                        // Begun, and of no use.
                        Err(_) => remove_file(&to)?,
                    }
                }
                MountMethod::Link(_) if coverage == Coverage::CopySmall && size <= SMALL => {}
                MountMethod::Link(place) => {
                    let to = object(&self.directories[place], number);
                    let object = self.objects.of(&to)?;
                    match from.link_to(&object) {
                        Ok(()) if from.is_roots() || seen.is(&object.status()?) => {
                            return done(SaveMethod::Link, place, size);
                        }
                        Ok(()) => {
                            object.remove_file()?;
                            return Ok(None);
                        }
                        Err(error) if !no_link(&error) => return Err(error.into()),
                        Err(_) => {}
                    }
                }
                MountMethod::Copy => {}
            }
        }
        let Some(file) = open_seen(&from, seen)? else { return Ok(None) };
        let (size, sha256) = copy(&file, &create(&object(&self.directories[0], number))?)?;
        done(SaveMethod::Copy { sha256 }, 0, size)
    }

    /// The method of a mount. Makes the directory on it if needed.
    fn on_mount(&mut self, path: &Path, mount: u64) -> Result<MountMethod> {
        if let Some(there) = self.of_mount.get(&mount) {
            return Ok(*there);
        }
        let top = below(self.paths.root(), &mount_point(self.paths.root(), path, mount)?);
        // Who can write to the top can exchange what is in it.
        if is_overlay(&top) || files::changeable(&top)?.is_some() {
            self.of_mount.insert(mount, MountMethod::Copy);
            return Ok(MountMethod::Copy);
        }
        let directory = top.join(directory_name(self.paths));
        let line = serde_json::to_string(&RawPath::from(directory.as_path()))?;
        writeln!(self.list, "{line}")?;
        self.list.sync_all()?;
        keeping_time(&top, || {
            // Left by rollback data that was lost.
            remove(&directory)?;
            Ok(make_private(&directory)?)
        })
        .with_context(|| directory.display().to_string())?;
        let there = MountMethod::of(&directory, self.directories.len());
        self.directories.push(directory);
        self.of_mount.insert(mount, there);
        Ok(there)
    }

    /// Makes all that was stored durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.directories.iter().try_for_each(|directory| sync_filesystem(directory))
    }
}

/// How files that are replaced and not edited are saved, and in which directory.
#[derive(Debug, Clone, Copy)]
enum MountMethod {
    Clone(usize),
    Link(usize),
    Copy,
}

impl MountMethod {
    fn of(directory: &Path, place: usize) -> Self {
        if is_overlay(directory) {
            Self::Copy
        } else if can_clone(directory) {
            Self::Clone(place)
        } else {
            Self::Link(place)
        }
    }
}

/// True for overlayfs, on which containers run: a link to a file of a lower layer is a copy, and each is waited for until it is
/// on disk. Copying takes a twentieth of that.
pub(super) fn is_overlay(path: &Path) -> bool {
    // OVERLAYFS_SUPER_MAGIC of linux/magic.h.
    rustix::fs::statfs(path).is_ok_and(|it| it.f_type == 0x794c_7630)
}

/// Makes everything on the filesystem of a path durable.
pub(super) fn sync_filesystem(path: &Path) -> Result<()> {
    let sync = || -> io::Result<()> { Ok(syncfs(files::open_directory(path)?)?) };
    sync().with_context(|| path.display().to_string())
}

/// Makes a directory for rollback data, which only root can enter.
fn make_private(directory: &Path) -> io::Result<()> {
    Place::of(directory)?.make_directory()?;
    Place::of(&directory.join("files"))?.make_directory()
}

/// Removes a directory and all in it.
pub(super) fn remove(directory: &Path) -> Result<()> {
    match files::remove_tree(directory) {
        Err(error) if !is_absent(&error) => Err(error).with_context(|| directory.display().to_string()),
        _ => Ok(()),
    }
}

/// Does something in a directory whose time stays what it is.
pub(super) fn keeping_time(directory: &Path, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = read_metadata(directory)?;
    work()?;
    before.map_or(Ok(()), |seen| Ok(seen.entry.put_time(directory)?))
}

/// The highest directory above a path that is on this mount.
fn mount_point(root: &Path, path: &Path, mount: u64) -> Result<PathBuf> {
    let mut top = path;
    for directory in path.ancestors().skip(1) {
        if mount_of(&below(root, directory))? != Some(mount) {
            break;
        }
        top = directory;
    }
    Ok(top.to_owned())
}
