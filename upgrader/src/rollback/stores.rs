//! The directories with rollback data, one on each filesystem, and saving files in them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::syncfs;

use super::content::{can_clone, clone, copy, is_not_found, no_clone, no_link};
use super::manifest::{Manifest, SaveMethod, Stored};
use super::metadata::{Kind, Metadata, below, mount_of, read_metadata};
use super::scope::{Coverage, SMALL, directory_name};
use crate::paths::Paths;

/// The path of a saved content.
pub(super) fn object(store: &Path, object: u64) -> PathBuf {
    store.join("files").join(object.to_string())
}

/// The file in which the stores on other filesystems are listed before they are made, one path a line, as JSON.
const LIST: &str = "places";

/// The directories on other filesystems. A truncated line is ignored: its directory was not made yet.
pub(super) fn listed(store: &Path) -> Result<Vec<PathBuf>> {
    let list = store.join(LIST);
    let text = match fs::read_to_string(&list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| list.display().to_string())?,
    };
    let paths = text.lines().filter_map(|line| serde_json::from_str::<super::metadata::RawPath>(line).ok());
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
    /// What has several names, by mount and inode.
    several: HashMap<(u64, u64), (Stored, u64)>,
    next: u64,
}

impl<'a> Stores<'a> {
    pub(super) fn create(paths: &'a Paths) -> Result<Self> {
        let own = paths.rollback();
        let create = || -> io::Result<File> {
            fs::create_dir_all(paths.state())?;
            make_private(&own)?;
            File::create_new(own.join(LIST))
        };
        let list = create().with_context(|| own.display().to_string())?;
        let mut places = Self {
            paths,
            list,
            directories: vec![own.clone()],
            of_mount: HashMap::new(),
            several: HashMap::new(),
            next: 0,
        };
        let mount = mount_of(&own)?.unwrap_or_default();
        places.of_mount.insert(mount, MountMethod::of(&own, 0));
        Ok(places)
    }

    /// Opens existing rollback data to add to it. Files of an interrupted attempt do no harm: numbers go on after the highest.
    pub(super) fn reopen(paths: &'a Paths, manifest: &Manifest) -> Result<Self> {
        let list = paths.rollback().join(LIST);
        let list = File::options().append(true).open(&list).with_context(|| list.display().to_string())?;
        let directories: Vec<PathBuf> = manifest.header.places.iter().map(|place| place.path().to_owned()).collect();
        let mut places = Self { paths, list, directories, of_mount: HashMap::new(), several: HashMap::new(), next: 0 };
        for (number, directory) in places.directories.iter().enumerate() {
            let mount = mount_of(directory)?.unwrap_or_default();
            places.of_mount.insert(mount, MountMethod::of(directory, number));
            for entry in directory.join("files").read_dir().with_context(|| directory.display().to_string())? {
                let name = entry?.file_name();
                let object = name.to_str().and_then(|name| name.parse::<u64>().ok()).unwrap_or_default();
                places.next = places.next.max(object.saturating_add(1));
            }
        }
        Ok(places)
    }

    /// Stores a file, and says how; with the size that is stored. `None` if it is gone.
    pub(super) fn store(&mut self, path: &Path, seen: &Metadata, treatment: Coverage) -> Result<Option<(Stored, u64)>> {
        let key = (seen.mount, seen.inode);
        if seen.names > 1
            && let Some(stored) = self.several.get(&key)
        {
            return Ok(Some(stored.clone()));
        }
        let full = below(self.paths.root(), path);
        let stored = match self.put(path, &full, seen, treatment) {
            Err(error) if is_not_found(&error) && read_metadata(&full)?.is_none() => return Ok(None),
            stored => stored.with_context(|| full.display().to_string())?,
        };
        if seen.names > 1 {
            self.several.insert(key, stored.clone());
        }
        Ok(Some(stored))
    }

    fn put(&mut self, path: &Path, full: &Path, seen: &Metadata, treatment: Coverage) -> Result<(Stored, u64)> {
        let Kind::File { size, .. } = seen.entry.kind else { anyhow::bail!("no file") };
        let number = self.next;
        self.next += 1;
        if matches!(treatment, Coverage::Link | Coverage::CopySmall) {
            match self.on_mount(path, seen.mount)? {
                MountMethod::Clone(place) => {
                    let to = object(&self.directories[place], number);
                    match clone(full, &to) {
                        Ok(()) => {
                            seen.entry.put_time(&to)?;
                            return Ok((Stored { how: SaveMethod::Clone, place, object: number }, size));
                        }
                        Err(error) if !no_clone(&error) => return Err(error),
                        // Begun, and of no use.
                        Err(_) => fs::remove_file(&to)?,
                    }
                }
                MountMethod::Link(_) if treatment == Coverage::CopySmall && size <= SMALL => {}
                MountMethod::Link(place) => match fs::hard_link(full, object(&self.directories[place], number)) {
                    Ok(()) => return Ok((Stored { how: SaveMethod::Link, place, object: number }, size)),
                    Err(error) if !no_link(&error) => return Err(error.into()),
                    Err(_) => {}
                },
                MountMethod::Copy => {}
            }
        }
        let (size, sha256) = copy(full, &object(&self.directories[0], number))?;
        Ok((Stored { how: SaveMethod::Copy { sha256 }, place: 0, object: number }, size))
    }

    /// The method of a mount. Makes the directory on it if needed.
    fn on_mount(&mut self, path: &Path, mount: u64) -> Result<MountMethod> {
        if let Some(there) = self.of_mount.get(&mount) {
            return Ok(*there);
        }
        let top = below(self.paths.root(), &mount_point(self.paths.root(), path, mount)?);
        if is_overlay(&top) {
            self.of_mount.insert(mount, MountMethod::Copy);
            return Ok(MountMethod::Copy);
        }
        let directory = top.join(directory_name(self.paths));
        let line = serde_json::to_string(&super::metadata::RawPath::from(directory.as_path()))?;
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
    let sync = || -> io::Result<()> { Ok(syncfs(File::open(path)?)?) };
    sync().with_context(|| path.display().to_string())
}

/// Makes a directory for rollback data, which only root can enter.
fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(directory)?;
    fs::create_dir(directory.join("files"))
}

/// Removes a directory and all in it.
pub(super) fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| directory.display().to_string())
        }
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
