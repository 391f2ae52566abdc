//! Reads and restores the metadata of a path.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Statx, StatxAttributes, StatxFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags, chmodat, chownat, lgetxattr, lgetxattr_query, llistxattr, llistxattr_query, lremovexattr, lsetxattr,
    statx, utimensat,
};
use rustix::io::Errno;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

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

/// Reads the metadata of a path; `None` if nothing is there. Does not follow a link.
pub(super) fn read_metadata(path: &Path) -> Result<Option<Metadata>> {
    let see = || -> io::Result<Option<Metadata>> {
        let Some(stat) = stat(path)? else { return Ok(None) };
        let kind = kind(path, &stat)?;
        let entry = PathEntry {
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            xattrs: xattrs(path)?,
        };
        Ok(Some(Metadata {
            entry,
            mount: stat.stx_mnt_id,
            is_mount: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            inode: stat.stx_ino,
            names: stat.stx_nlink,
            disk: stat.stx_blocks * 512,
        }))
    };
    match see() {
        // Gone in between.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        seen => seen.with_context(|| path.display().to_string()),
    }
}

/// The kernel's number of the mount that a path is on; `None` if nothing is there.
pub(super) fn mount_of(path: &Path) -> Result<Option<u64>> {
    let stat = stat(path).with_context(|| path.display().to_string())?;
    Ok(stat.map(|stat| stat.stx_mnt_id))
}

fn stat(path: &Path) -> io::Result<Option<Statx>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, path, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        stat => Ok(Some(stat?)),
    }
}

fn kind(path: &Path, stat: &Statx) -> io::Result<Kind> {
    let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
    Ok(match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Kind::File { size: stat.stx_size, inode: stat.stx_ino },
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink { target: path.read_link()?.as_path().into() },
        FileType::BlockDevice => Kind::Block { major, minor },
        FileType::CharacterDevice => Kind::Character { major, minor },
        FileType::Fifo => Kind::Fifo,
        _ => Kind::Socket,
    })
}

fn xattrs(path: &Path) -> io::Result<Vec<(RawPath, RawPath)>> {
    let mut names = match llistxattr_query(path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        size => vec![0; size?],
    };
    let size = llistxattr(path, &mut names[..])?;
    names.truncate(size);
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; lgetxattr_query(path, name)?];
        let size = lgetxattr(path, name, &mut value[..])?;
        value.truncate(size);
        found.push((RawPath(name.to_vec()), RawPath(value)));
    }
    found.sort();
    Ok(found)
}

impl PathEntry {
    /// Gives mode, owner, extended attributes and, if `time` is true, the time of this entry to what is at a path. What is
    /// right already is not touched.
    ///
    /// The order matters: a new owner takes the setuid bits and the capabilities away, and an access control list is
    /// part of the mode.
    pub(super) fn put_attributes(&self, path: &Path, time: bool) -> Result<()> {
        let Some(Metadata { entry: now, .. }) = read_metadata(path)? else { return Ok(()) };
        self.change_attributes(&now, path, time).with_context(|| path.display().to_string())
    }

    fn change_attributes(&self, now: &Self, path: &Path, time: bool) -> io::Result<()> {
        let chown = (self.uid, self.gid) != (now.uid, now.gid);
        if chown {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let mut reset = chown;
        for (name, _) in &now.xattrs {
            if !self.xattrs.iter().any(|(wanted, _)| wanted == name) {
                match lremovexattr(path, &name.0[..]) {
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
                lsetxattr(path, &name.0[..], &value.0, XattrFlags::empty())?;
            }
        }
        if time && self.mtime != now.mtime {
            self.put_time(path)?;
        }
        Ok(())
    }

    /// Gives the time of this entry to what is at a path.
    pub(super) fn put_time(&self, path: &Path) -> io::Result<()> {
        let (tv_sec, nanoseconds) = self.mtime;
        let last_modification = Timespec { tv_sec, tv_nsec: nanoseconds.into() };
        let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification };
        Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// The path of a logical path below another root directory.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
