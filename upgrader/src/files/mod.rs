//! Files in directories that another user than root may change: opens, makes, moves and removes them by a name in an open directory.
//! Follows no link that another user could have made, and opens nothing that blocks.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Statx, StatxFlags, chmodat, linkat, mkdirat,
    openat, openat2, readlinkat, renameat, renameat_with, statx, unlinkat,
};
use rustix::io::Errno;

use crate::exit::Failure;

/// How many links a path may have (`MAXSYMLINKS` of Linux).
const MOST_LINKS: usize = 40;

/// The most that is read of a file, in bytes. The longest, the lists of apt and the manifest of a rollback, have some tens of megabytes.
const LARGEST: u64 = 1 << 30;

/// What opens a directory, or any file to look at it. It reads nothing.
const PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What opens a file for reading: no terminal, no waiting for the other end of a pipe.
const READ: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// A name in an open directory. Whatever another user renames above it, it stays in that directory.
#[derive(Debug)]
pub(crate) struct Place {
    directory: Arc<OwnedFd>,
    name: OsString,
    /// True if only root can put something else there. Looked at when it is first asked for.
    is_roots: Arc<OnceLock<bool>>,
}

/// The places of paths that come in their order: a directory is opened once for all names in it. Work that moves directories has to
/// [forget](Places::forget) them.
#[derive(Debug, Default)]
pub(crate) struct Places {
    last: RefCell<Option<(PathBuf, Place)>>,
}

impl Places {
    /// As [`Place::of`].
    pub(crate) fn of(&self, path: &Path) -> io::Result<Place> {
        if let (Some((parent, last)), Some(name)) = (&*self.last.borrow(), path.file_name())
            // By bytes: comparing paths name by name takes longer than looking at a file.
            && path.parent().map(Path::as_os_str) == Some(parent.as_os_str())
        {
            return Ok(last.beside(name));
        }
        let place = Place::of(path)?;
        self.last.replace(path.parent().map(|parent| (parent.to_owned(), place.beside(&place.name))));
        Ok(place)
    }

    /// Opens directories again from here on.
    pub(crate) fn forget(&self) {
        self.last.take();
    }
}

impl Place {
    /// Opens the directory of a path.
    ///
    /// # Errors
    /// `ELOOP` if there is a link in the path that another user than root could have made.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let (directory, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (Walk::to(parent)?, name),
            _ => (Walk::to(path)?, OsStr::new(".")),
        };
        Ok(Self::in_directory(directory, name))
    }

    fn in_directory(directory: OwnedFd, name: &OsStr) -> Self {
        Self { directory: Arc::new(directory), name: name.to_owned(), is_roots: Arc::default() }
    }

    /// Another name in the same directory.
    fn beside(&self, name: &OsStr) -> Self {
        let (directory, is_roots) = (Arc::clone(&self.directory), Arc::clone(&self.is_roots));
        Self { directory, name: name.to_owned(), is_roots }
    }

    /// True if only root can put something else there, so that it is the same when it is looked at twice.
    pub(crate) fn is_roots(&self) -> bool {
        let ask = || status_of(&self.directory).is_ok_and(|it| is_roots(it.stx_uid) && it.stx_mode & 0o022 == 0);
        *self.is_roots.get_or_init(ask)
    }

    /// A path of what is there, for calls that take paths and follow no link at their end.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.directory.as_raw_fd())).join(&self.name)
    }

    /// Where a link leads.
    pub(crate) fn target(&self) -> io::Result<PathBuf> {
        let target = readlinkat(&self.directory, &self.name, Vec::new())?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    /// Opens what is there to look at it, not through a link.
    pub(crate) fn look(&self) -> io::Result<Object> {
        Ok(Object(openat(&self.directory, &self.name, PATH, Mode::empty())?))
    }

    /// The status of what is there, with the number of its mount.
    pub(crate) fn status(&self) -> io::Result<Statx> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(statx(&self.directory, &self.name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?)
    }

    /// Opens a file for reading; anything else is an error.
    pub(crate) fn open(&self) -> io::Result<File> {
        regular(openat(&self.directory, &self.name, READ, Mode::empty())?)
    }

    /// Makes a file that only root can read.
    pub(crate) fn create(&self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | READ;
        Ok(openat(&self.directory, &self.name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Makes a directory that only root can enter.
    pub(crate) fn make_directory(&self) -> io::Result<()> {
        Ok(mkdirat(&self.directory, &self.name, Mode::RWXU)?)
    }

    /// A name in the directory that is here. It has to be one that only root can enter.
    ///
    /// # Errors
    /// `ELOOP` if it is not.
    pub(crate) fn below(&self, name: &OsStr) -> io::Result<Self> {
        let flags = PATH | OFlags::DIRECTORY;
        let directory = openat(&self.directory, &self.name, flags, Mode::empty())?;
        let status = status_of(&directory)?;
        let is_private = Mode::from_raw_mode(status.stx_mode.into()).intersection(Mode::RWXG | Mode::RWXO).is_empty();
        if !is_roots(status.stx_uid) || !is_private {
            return Err(Errno::LOOP.into());
        }
        Ok(Self::in_directory(directory, name))
    }

    /// Makes a symbolic link.
    pub(crate) fn make_link(&self, target: &Path) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.directory, &self.name)?)
    }

    /// Makes a device or a named pipe.
    pub(crate) fn make_node(&self, kind: FileType, mode: Mode, device: u64) -> io::Result<()> {
        Ok(rustix::fs::mknodat(&self.directory, &self.name, kind, mode, device)?)
    }

    /// Gives what is there another name, on the same filesystem.
    pub(crate) fn link_to(&self, other: &Self) -> io::Result<()> {
        Ok(linkat(&self.directory, &self.name, &other.directory, &other.name, AtFlags::empty())?)
    }

    /// Moves what is there to another name, which may be taken.
    pub(crate) fn rename_to(&self, other: &Self) -> io::Result<()> {
        Ok(renameat(&self.directory, &self.name, &other.directory, &other.name)?)
    }

    /// Exchanges what is at two names.
    pub(crate) fn exchange_with(&self, other: &Self) -> io::Result<()> {
        Ok(renameat_with(&self.directory, &self.name, &other.directory, &other.name, RenameFlags::EXCHANGE)?)
    }

    /// Removes a file or link.
    pub(crate) fn remove_file(&self) -> io::Result<()> {
        Ok(unlinkat(&self.directory, &self.name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub(crate) fn remove_directory(&self) -> io::Result<()> {
        Ok(unlinkat(&self.directory, &self.name, AtFlags::REMOVEDIR)?)
    }

    /// Makes what happened in the directory durable.
    pub(crate) fn sync_directory(&self) -> io::Result<()> {
        File::from(openat(&self.directory, ".", READ | OFlags::DIRECTORY, Mode::empty())?).sync_all()
    }
}

/// What was at a place when it was looked at, whatever takes its name later.
#[derive(Debug)]
pub(crate) struct Object(OwnedFd);

impl Object {
    /// Its status; with the number of its mount.
    pub(crate) fn status(&self) -> io::Result<Statx> {
        status_of(&self.0)
    }

    /// Its metadata.
    pub(crate) fn metadata(self) -> io::Result<Metadata> {
        File::from(self.0).metadata()
    }

    /// Where a link leads.
    pub(crate) fn target(&self) -> io::Result<PathBuf> {
        target_of(&self.0)
    }

    /// A path that leads to it and to nothing else, for calls that take paths. They have to follow links.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl From<OwnedFd> for Object {
    fn from(file: OwnedFd) -> Self {
        Self(file)
    }
}

impl From<Object> for OwnedFd {
    fn from(object: Object) -> Self {
        object.0
    }
}

/// What another user than root can change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changeable {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Whose it is: the number of a user.
    pub(crate) user: u32,
    /// Its permissions.
    pub(crate) mode: u32,
}

impl Changeable {
    /// What is wrong, worded to follow "but".
    pub(crate) fn how(&self, of: &Path) -> String {
        let is_it = self.path == of;
        let path = self.path.display();
        match (is_roots(self.user), is_it) {
            (true, true) => format!("others can change it (mode {:04o})", self.mode),
            (true, false) => format!("others can change {path} (mode {:04o})", self.mode),
            (false, true) => format!("belongs to user {}", self.user),
            (false, false) => format!("{path} belongs to user {}", self.user),
        }
    }

    /// The command that makes it root's alone.
    pub(crate) fn remedy(&self) -> String {
        let path = self.path.display();
        if is_roots(self.user) { format!("`chmod go-w {path}`") } else { format!("`chown root: {path}`") }
    }
}

/// Opens a regular file for reading, through links that only root could have made.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    match Place::of(path).and_then(|place| place.open()) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {}
        file => return file,
    }
    let mut walk = Walk::along(path)?;
    walk.go(path, false)?;
    // By its descriptor: what is opened is what was found.
    let found = Object(walk.now);
    if kind(&found.status()?) != FileType::RegularFile {
        return Err(not_regular());
    }
    regular(openat(CWD, found.path(), READ.difference(OFlags::NOFOLLOW), Mode::empty())?)
}

/// Reads a regular file of up to `most` bytes, through links that only root could have made.
///
/// # Errors
/// `FileTooLarge` beyond that.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_open(open(path)?, most)
}

/// The same of an open file.
pub(crate) fn read_open(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "it is too large"));
    }
    Ok(content)
}

/// Opens a regular file in another way, or makes it with this mode. A link at its end is followed if only root could have made it.
fn open_to(path: &Path, how: OFlags, mode: u32) -> io::Result<File> {
    let path = read_link(path)?.map_or_else(|| Ok(path.to_owned()), |_| canonical(path))?;
    let place = Place::of(&path)?;
    regular(openat(&place.directory, &place.name, how | READ, Mode::from_raw_mode(mode))?)
}

/// Opens a file to add to it. One that is not there is made with this mode.
pub(crate) fn append(path: &Path, mode: u32) -> io::Result<File> {
    open_to(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE, mode)
}

/// Opens a file to read and write it, as a lock needs it. One that is not there is made with this mode.
pub(crate) fn update(path: &Path, mode: u32) -> io::Result<File> {
    open_to(path, OFlags::RDWR | OFlags::CREATE, mode)
}

/// Writes a file so that only a complete one is ever under its name, and returns when it is on the disk.
pub(crate) fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let new = Place::of(&path.with_extension("new"))?;
    let write = || {
        match new.remove_file() {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = new.create()?;
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        new.rename_to(&Place::of(path)?)
    };
    // A partial file is useless: the disk may be full.
    write().inspect_err(|_| drop(new.remove_file()))?;
    new.sync_directory()
}

/// Renames a file, and returns when that is on the disk.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let to = Place::of(to)?;
    Place::of(from)?.rename_to(&to)?;
    to.sync_directory()
}

/// Reads a file, which nobody makes larger than the memory.
pub(crate) fn content(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    read(path.as_ref(), LARGEST)
}

/// Reads what the kernel says of this process (proc(5)). Not by the link /proc/self: in a user namespace it is nobody's.
pub(crate) fn of_this_process(name: &str) -> io::Result<String> {
    text(format!("/proc/{}/{name}", std::process::id()))
}

/// Reads a file in UTF-8.
pub(crate) fn text(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(content(path)?).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// The metadata of what is at a path, through links that only root could have made.
pub(crate) fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let path = path.as_ref();
    let place = Place::of(path)?;
    let found = place.look()?.metadata()?;
    if !found.is_symlink() {
        return Ok(found);
    }
    let mut walk = Walk::along(path)?;
    walk.go(path, false)?;
    File::from(walk.now).metadata()
}

/// True if something is at a path itself: a link that leads nowhere, too.
pub(crate) fn is_there(path: &Path) -> bool {
    Place::of(path).and_then(|place| place.look()).is_ok()
}

/// True if something is at a path, through links that only root could have made.
pub(crate) fn exists(path: impl AsRef<Path>) -> bool {
    metadata(path).is_ok()
}

/// Where a link leads, whichever user made it.
pub(crate) fn target(link: impl AsRef<Path>) -> io::Result<PathBuf> {
    Place::of(link.as_ref())?.look()?.target()
}

/// The names in a directory.
pub(crate) fn names_in(path: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
    Ok(entries(path.as_ref())?.into_iter().map(|(name, _)| name).collect())
}

/// Opens a directory for reading.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let place = Place::of(path)?;
    Ok(openat(&place.directory, &place.name, READ | OFlags::DIRECTORY, Mode::empty())?)
}

/// Makes a directory of the upgrader itself, which only root can enter, and those above it.
pub(crate) fn make_own(path: &Path) -> io::Result<()> {
    make_directories(path, 0o700)
}

/// Makes a directory that everybody can enter, and those above it.
pub(crate) fn make_public(path: &Path) -> io::Result<()> {
    make_directories(path, 0o755)
}

fn make_directories(path: &Path, mode: u32) -> io::Result<()> {
    if exists(path) {
        return Ok(());
    }
    path.parent().map_or(Ok(()), |above| make_directories(above, mode))?;
    let place = Place::of(path)?;
    Ok(mkdirat(&place.directory, &place.name, Mode::from_raw_mode(mode))?)
}

/// Lets only root enter a directory of the upgrader itself. One that is not there is fine.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    let object = Place::of(path)?.look()?;
    if Mode::from_raw_mode(object.status()?.stx_mode.into()).intersection(Mode::RWXG | Mode::RWXO).is_empty() {
        return Ok(());
    }
    Ok(chmodat(CWD, object.path(), Mode::RWXU, AtFlags::empty())?)
}

/// The names in a directory, and what is there. A link at the end of the path is not followed.
pub(crate) fn entries(path: &Path) -> io::Result<Vec<(OsString, FileType)>> {
    let mut entries = Vec::new();
    for entry in Dir::new(open_directory(path)?)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            entries.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(entries)
}

/// Where a link leads that root may follow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// There is no link.
    None,
    /// Only root could have made it; or it leads to what belongs to the user who made it.
    To(PathBuf),
    /// Another user could have made it, and it leads to what is not that user's.
    Foreign,
}

/// Where a link leads; `None` if there is no link, or one that another user than root could have made.
pub(crate) fn read_link(path: &Path) -> io::Result<Option<PathBuf>> {
    Ok(match link(path)? {
        Link::To(target) => Some(target),
        _ => None,
    })
}

/// The link at a path.
pub(crate) fn link(path: &Path) -> io::Result<Link> {
    let object = match Place::of(path).and_then(|place| place.look()) {
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
            return Ok(Link::None);
        }
        object => object?,
    };
    let status = object.status()?;
    if kind(&status) != FileType::Symlink {
        return Ok(Link::None);
    }
    let above = path.parent().unwrap_or(path);
    let target = object.target()?;
    if is_roots(status.stx_uid) && changeable(above)?.is_none() {
        return Ok(Link::To(target));
    }
    let is_its_own =
        leads_to(&above.join(&target)).is_ok_and(|found| found.uid() == status.stx_uid && !is_roots(found.uid()));
    Ok(if is_its_own { Link::To(target) } else { Link::Foreign })
}

/// Removes a directory with all in it. One that is not there is removed already.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let place = Place::of(path)?;
    #[expect(clippy::disallowed_methods, reason = "it follows no link below a directory that is open")]
    match std::fs::remove_dir_all(place.path()) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The first part of a path that another user than root can change or replace: a directory above it, a link, or what it leads to. None
/// if there is no such part.
///
/// # Errors
/// If nothing is there, or it cannot be looked at.
pub(crate) fn changeable(path: &Path) -> io::Result<Option<Changeable>> {
    let mut walk = Walk::along(path)?;
    walk.go(path, true)?;
    // The sticky bit lets others make files here.
    walk.note(&status_of(&walk.now)?, false);
    Ok(walk.changeable)
}

/// Makes sure that only root can change a program before it runs as root. One that is not there is fine; one without a directory is of the
/// system.
///
/// # Errors
/// A [`Failure`] that names what others can change.
pub(crate) fn trusted(program: &Path) -> Result<(), Failure> {
    only_roots(program, "runs as root", "Look at what it does")
}

/// Makes sure that only root can change a directory or a file of the upgrader itself. One that is not there is fine.
///
/// # Errors
/// A [`Failure`] that names what others can change.
pub(crate) fn own(path: &Path) -> Result<(), Failure> {
    only_roots(path, "decides what root does", "Others may have written there: look at what is in it")
}

fn only_roots(path: &Path, what: &str, remedy: &str) -> Result<(), Failure> {
    match changeable(path) {
        Ok(Some(it)) if path.is_absolute() => {
            let failure = Failure::new(format!("{} {what}, but {}", path.display(), it.how(path)));
            Err(failure.remedy(format!("{remedy}, then: {}.", it.remedy())))
        }
        _ => Ok(()),
    }
}

/// True for a directory in which other users cannot replace or remove the files of root, as in /tmp.
pub(crate) fn can_hold_temporaries(directory: &Path) -> bool {
    let walk = || -> io::Result<Walk> {
        let mut walk = Walk::along(directory)?;
        walk.go(directory, true)?;
        Ok(walk)
    };
    directory.is_absolute() && walk().is_ok_and(|walk| walk.changeable.is_none())
}

/// What a path leads to, through links of any user.
pub(crate) fn leads_to(path: &Path) -> io::Result<Metadata> {
    let mut walk = Walk::along(path)?;
    walk.go(path, true)?;
    File::from(walk.now).metadata()
}

/// The path of what a path leads to, without links.
///
/// # Errors
/// `ELOOP` if there is a link that another user than root could have made.
pub(crate) fn canonical(path: &Path) -> io::Result<PathBuf> {
    let mut walk = Walk::along(path)?;
    walk.go(path, false)?;
    Ok(walk.position)
}

/// A walk along a path, one name at a time.
struct Walk {
    /// Where it is now.
    now: OwnedFd,
    /// The names on the way there.
    position: PathBuf,
    /// The first thing on the way that another user than root can change.
    changeable: Option<Changeable>,
    /// True where others could put a link of root: they can move one that they got elsewhere, also where the sticky bit is set.
    shared: bool,
}

impl Walk {
    /// Begins where a path begins: at the root, or in the current directory.
    fn along(path: &Path) -> io::Result<Self> {
        let start = if path.is_absolute() { "/" } else { "." };
        Ok(Self {
            now: openat(CWD, start, PATH, Mode::empty())?,
            position: PathBuf::from(start),
            changeable: None,
            shared: false,
        })
    }

    /// Opens a directory.
    fn to(directory: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The directory of a name alone.
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        match openat2(CWD, directory, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            // A link, or no such call: it is newer than Linux 5.6, and some containers refuse it.
            Err(Errno::LOOP | Errno::NOSYS | Errno::PERM) => {}
            directory => return Ok(directory?),
        }
        let mut walk = Self::along(directory)?;
        walk.go(directory, false)?;
        if kind(&status_of(&walk.now)?) == FileType::Directory { Ok(walk.now) } else { Err(Errno::NOTDIR.into()) }
    }

    /// Goes along a path. With `anywhere`, follows links that others could have made, too.
    fn go(&mut self, path: &Path, anywhere: bool) -> io::Result<()> {
        let mut left = names(path);
        let mut links = 0;
        self.note(&status_of(&self.now)?, true);
        while let Some(name) = left.pop() {
            let next = openat(&self.now, &name, PATH, Mode::empty())?;
            let status = status_of(&next)?;
            let position = match self.position.parent() {
                Some(above) if name == ".." => above.to_owned(),
                _ => self.position.join(&name),
            };
            let above = std::mem::replace(&mut self.position, position);
            self.note(&status, true);
            if kind(&status) == FileType::Symlink {
                links += 1;
                self.position = above;
                if links > MOST_LINKS || ((self.changeable.is_some() || self.shared) && !anywhere) {
                    return Err(Errno::LOOP.into());
                }
                let target = target_of(&next)?;
                if target.is_absolute() {
                    let root = Self::along(&target)?;
                    (self.now, self.position) = (root.now, root.position);
                }
                left.extend(names(&target));
                continue;
            }
            self.now = next;
        }
        Ok(())
    }

    /// Notes whether another user can change what is here. In a directory above it that has the `sticky` bit, that is only what belongs to
    /// that user; a link has no permissions.
    fn note(&mut self, here: &Statx, sticky: bool) {
        let mode = u32::from(here.stx_mode);
        if kind(here) == FileType::Directory {
            self.shared = mode & 0o022 != 0;
        }
        let is_safe = match kind(here) {
            FileType::Symlink => true,
            FileType::Directory if sticky && mode & 0o1000 != 0 => true,
            _ => mode & 0o022 == 0,
        };
        if self.changeable.is_none() && !(is_safe && is_roots(here.stx_uid)) {
            self.changeable = Some(Changeable { path: self.position.clone(), user: here.stx_uid, mode: mode & 0o7777 });
        }
    }
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

/// True for root, and for the user of a test.
fn is_roots(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

fn status_of(file: &OwnedFd) -> io::Result<Statx> {
    Ok(statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?)
}

fn target_of(link: &OwnedFd) -> io::Result<PathBuf> {
    Ok(PathBuf::from(OsStr::from_bytes(readlinkat(link, "", Vec::new())?.as_bytes())))
}

fn kind(status: &Statx) -> FileType {
    FileType::from_raw_mode(status.stx_mode.into())
}

fn regular(file: OwnedFd) -> io::Result<File> {
    if kind(&status_of(&file)?) == FileType::RegularFile { Ok(file.into()) } else { Err(not_regular()) }
}

fn not_regular() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")
}

#[cfg(test)]
mod tests;
