//! Reads and restores the metadata of a path.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Statx, StatxAttributes, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, getxattr, getxattr_query, lgetxattr, lgetxattr_query, listxattr, listxattr_query, llistxattr,
    llistxattr_query, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::files::{Object, Place, Places};

/// Bytes that are mostly text: a path, a link's target, an extended attribute. In JSON a string, or else a list of numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RawPath(pub(super) Vec<u8>);

impl RawPath {
    pub(super) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl From<&Path> for RawPath {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl Serialize for RawPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for RawPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text.into_bytes())),
            bytes => Vec::deserialize(bytes).map(Self).map_err(D::Error::custom),
        }
    }
}

/// The metadata of a path that a rollback restores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PathEntry {
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    /// Permissions, with the setuid, setgid and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Extended attributes in the order of their names, capabilities and access control lists among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) xattrs: Vec<(RawPath, RawPath)>,
}

/// The type of what is at a path, and what only that type has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    File { size: u64, inode: u64 },
    Directory,
    Symlink { target: RawPath },
    Block { major: u32, minor: u32 },
    Character { major: u32, minor: u32 },
    Fifo,
    Socket,
}

impl Kind {
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// True if both are of one type, whatever is in them.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// The current metadata of a path.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) entry: PathEntry,
    /// The kernel's number of the mount.
    pub(super) mount: u64,
    /// True if something is mounted right here.
    pub(super) is_mount: bool,
    pub(super) inode: u64,
    /// The number of names that the inode has.
    pub(super) names: u32,
    /// What it takes on disk, in bytes.
    pub(super) disk: u64,
}

/// What makes a file the same one: mount, inode, user, group and mode. Another user can get the number of an inode that became free.
pub(super) type Identity = (u64, u64, u32, u32, u32);

/// Reads the metadata of a path; `None` if nothing is there. Does not follow a link: there is nothing below one.
pub(super) fn read_metadata(path: &Path) -> Result<Option<Metadata>> {
    read_metadata_in(&Places::default(), path)
}

/// The same for paths that come in their order.
pub(super) fn read_metadata_in(places: &Places, path: &Path) -> Result<Option<Metadata>> {
    let seen = places.of(path).and_then(|place| Metadata::at(&place));
    there(seen).with_context(|| path.display().to_string())
}

/// The status of what is at a path; `None` if nothing is there.
pub(super) fn read_status_in(places: &Places, path: &Path) -> Result<Option<Statx>> {
    there(places.of(path).and_then(|place| place.status())).with_context(|| path.display().to_string())
}

/// What is at a path, and the kernel's number of its mount; `None` if nothing is there.
pub(super) fn kind_and_mount(path: &Path) -> Result<Option<(FileType, u64)>> {
    let status = read_status_in(&Places::default(), path)?;
    Ok(status.map(|status| (FileType::from_raw_mode(status.stx_mode.into()), status.stx_mnt_id)))
}

/// The kernel's number of the mount that a path is on; `None` if nothing is there.
pub(super) fn mount_of(path: &Path) -> Result<Option<u64>> {
    Ok(kind_and_mount(path)?.map(|(_, mount)| mount))
}

/// What is at a path; `None` if nothing is there.
fn look(path: &Path) -> io::Result<Option<Object>> {
    there(Place::of(path).and_then(|place| place.look()))
}

fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if is_absent(&error) => Ok(None),
        found => found.map(Some),
    }
}

/// True for the errors of a path at which nothing is that could be saved or restored: a directory above it is missing or is something
/// else, the path is longer than any program can name, or another user has put something else there meanwhile.
pub(super) fn is_absent(error: &io::Error) -> bool {
    match Errno::from_io_error(error) {
        Some(code) => {
            // Root is refused only by a filesystem of a user (FUSE).
            matches!(
                code,
                Errno::NOENT
                    | Errno::NOTDIR
                    | Errno::LOOP
                    | Errno::NAMETOOLONG
                    | Errno::ISDIR
                    | Errno::NXIO
                    | Errno::ACCESS
            )
        }
        // It is not a regular file.
        None => error.kind() == io::ErrorKind::InvalidInput,
    }
}

/// The same for an error with its context.
pub(super) fn is_of_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(is_absent)
}

impl Metadata {
    /// The metadata of what was looked at.
    pub(super) fn of(object: &Object) -> io::Result<Self> {
        Self::new(&object.status()?, || object.target(), || xattrs(&object.path(), true))
    }

    /// The metadata of what is at a place.
    fn at(place: &Place) -> io::Result<Self> {
        if !place.is_roots() {
            return Self::of(&place.look()?);
        }
        // Opening each file takes as long as all the rest.
        Self::new(&place.status()?, || place.target(), || xattrs(&place.path(), false))
    }

    fn new(
        stat: &Statx,
        target: impl FnOnce() -> io::Result<PathBuf>,
        xattrs: impl FnOnce() -> io::Result<Vec<(RawPath, RawPath)>>,
    ) -> io::Result<Self> {
        let entry = PathEntry {
            kind: kind(stat, target)?,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            xattrs: xattrs()?,
        };
        Ok(Self {
            entry,
            mount: stat.stx_mnt_id,
            is_mount: is_mounted(stat),
            inode: stat.stx_ino,
            names: stat.stx_nlink,
            disk: stat.stx_blocks * 512,
        })
    }

    /// True if this was read of what is at a path.
    pub(super) fn is_at(&self, path: &Path) -> Result<bool> {
        let is_at = || look(path)?.map_or(Ok(false), |object| self.is_of(&object));
        is_at().with_context(|| path.display().to_string())
    }

    pub(super) fn identity(&self) -> Identity {
        (self.mount, self.inode, self.entry.uid, self.entry.gid, self.entry.mode)
    }

    /// True if this was read of an object.
    pub(super) fn is_of(&self, object: &Object) -> io::Result<bool> {
        Ok(self.is(&object.status()?))
    }

    /// True if this was read of what has this status.
    pub(super) fn is(&self, now: &Statx) -> bool {
        self.identity() == (now.stx_mnt_id, now.stx_ino, now.stx_uid, now.stx_gid, u32::from(now.stx_mode) & 0o7777)
    }
}

/// True if something is mounted right there.
pub(super) fn is_mounted(status: &Statx) -> bool {
    status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
}

fn kind(stat: &Statx, target: impl FnOnce() -> io::Result<PathBuf>) -> io::Result<Kind> {
    let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
    Ok(match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Kind::File { size: stat.stx_size, inode: stat.stx_ino },
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink { target: target()?.as_path().into() },
        FileType::BlockDevice => Kind::Block { major, minor },
        FileType::CharacterDevice => Kind::Character { major, minor },
        FileType::Fifo => Kind::Fifo,
        _ => Kind::Socket,
    })
}

/// How much of the attributes that the owner of a file can set is kept, in bytes a file. Those beyond that are as if they were not there.
const MOST_OF_USER: usize = 512;

/// How often attributes that another user changes meanwhile are read again.
const ATTEMPTS: u32 = 5;

/// The attributes of what is at a path, or of what a link there leads to.
fn xattrs(path: &Path, through_link: bool) -> io::Result<Vec<(RawPath, RawPath)>> {
    for _ in 0..ATTEMPTS {
        match read_xattrs(path, through_link) {
            // Others came meanwhile, or longer ones.
            Err(Errno::RANGE) => {}
            xattrs => return Ok(xattrs?),
        }
    }
    Err(Errno::LOOP.into())
}

fn read_xattrs(path: &Path, through_link: bool) -> Result<Vec<(RawPath, RawPath)>, Errno> {
    let size = if through_link { listxattr_query(path) } else { llistxattr_query(path) };
    let mut names = match size {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        size => vec![0; size?],
    };
    let size = if through_link { listxattr(path, &mut names[..]) } else { llistxattr(path, &mut names[..]) }?;
    names.truncate(size);
    let mut found = Vec::new();
    let mut of_user = 0;
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let read = || {
            let size = if through_link { getxattr_query(path, name) } else { lgetxattr_query(path, name) };
            let mut value = vec![0; size?];
            let content = &mut value[..];
            let size = if through_link { getxattr(path, name, content) } else { lgetxattr(path, name, content) }?;
            value.truncate(size);
            Ok(value)
        };
        let value = match read() {
            // It went meanwhile.
            Err(Errno::NODATA) => continue,
            value => value?,
        };
        if name.starts_with(b"user.") {
            of_user += name.len() + value.len();
            if of_user > MOST_OF_USER {
                continue;
            }
        }
        found.push((RawPath(name.to_vec()), RawPath(value)));
    }
    found.sort();
    Ok(found)
}

impl PathEntry {
    /// Gives mode, owner, extended attributes and, if `time` is true, the time of this entry to what is at a place. What is
    /// right already is not touched.
    pub(super) fn put_attributes(&self, place: &Place, time: bool) -> io::Result<()> {
        there(place.look())?.map_or(Ok(()), |object| self.give_to(&object, time))
    }

    /// The same if that is still what was seen.
    ///
    /// # Errors
    /// `ELOOP` if it is not.
    pub(super) fn put_attributes_if(&self, path: &Path, seen: &Metadata, time: bool) -> Result<()> {
        let put = || match look(path)? {
            Some(object) if seen.is_of(&object)? => self.give_to(&object, time),
            _ => Err(Errno::LOOP.into()),
        };
        put().with_context(|| path.display().to_string())
    }

    /// The same for what was looked at.
    ///
    /// The order matters: a new owner takes the setuid bits and the capabilities away, and an access control list is
    /// part of the mode.
    ///
    /// # Errors
    /// `ELOOP` if it is of another type.
    pub(super) fn give_to(&self, object: &Object, time: bool) -> io::Result<()> {
        let Metadata { entry: now, .. } = Metadata::of(object)?;
        let path = &object.path();
        let chown = (self.uid, self.gid) != (now.uid, now.gid);
        if !self.kind.is_like(&now.kind) {
            return Err(Errno::LOOP.into());
        }
        if chown {
            chownat(CWD, path, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)), AtFlags::empty())?;
        }
        let mut reset = chown;
        // First, so that there is room for the others.
        for (name, value) in &now.xattrs {
            if !self.xattrs.iter().any(|(wanted, content)| wanted == name && content == value) {
                match removexattr(path, &name.0[..]) {
                    // Went with the owner.
                    Err(Errno::NODATA) => {}
                    removed => removed?,
                }
                reset = true;
            }
        }
        if !matches!(self.kind, Kind::Symlink { .. }) && (reset || self.mode != now.mode) {
            chmodat(CWD, path, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
            reset = true;
        }
        for (name, value) in &self.xattrs {
            if reset || !now.xattrs.iter().any(|(there, content)| there == name && content == value) {
                match setxattr(path, &name.0[..], &value.0, XattrFlags::empty()) {
                    // The owner of the file has filled the room for attributes, which is a block of the filesystem.
                    Err(Errno::NOSPC | Errno::TOOBIG) => return Err(Errno::PERM.into()),
                    set => set?,
                }
            }
        }
        if time && self.mtime != now.mtime {
            self.give_time_to(object)?;
        }
        Ok(())
    }

    /// True if a file with this status has the size and the time of this entry.
    pub(super) fn is_unchanged(&self, now: &Statx) -> bool {
        let time = (now.stx_mtime.tv_sec, now.stx_mtime.tv_nsec);
        matches!(self.kind, Kind::File { size, .. } if size == now.stx_size) && self.mtime == time
    }

    /// True if a file that is there now can become that of this entry. A file of another user cannot: he may have it open, and write into it.
    pub(super) fn may_own(&self, now: &Self) -> bool {
        now.uid == self.uid || now.uid == rustix::process::geteuid().as_raw()
    }

    /// Gives the time of this entry to what is at a path.
    pub(super) fn put_time(&self, path: &Path) -> io::Result<()> {
        look(path)?.map_or(Ok(()), |object| self.give_time_to(&object))
    }

    fn give_time_to(&self, object: &Object) -> io::Result<()> {
        let (tv_sec, nanoseconds) = self.mtime;
        let last_modification = Timespec { tv_sec, tv_nsec: nanoseconds.into() };
        let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification };
        Ok(utimensat(CWD, object.path(), &times, AtFlags::empty())?)
    }
}

/// The path of a logical path below another root directory.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
