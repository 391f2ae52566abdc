//! Finds the mounted filesystems and syncs them, and says whether one can be written. The checks measure their space.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, openat, statvfs, syncfs};
use rustix::io::Errno;

use crate::files;

/// Filesystems on a disk that /proc/filesystems lists as `nodev`. Network filesystems are skipped: a server that does not answer would
/// block the run, and the boot does not depend on it.
const WITH_DISK: [&str; 2] = ["overlay", "zfs"];

/// Syncs every writable filesystem, and returns when all writes so far are on the disk (syncfs(2)).
///
/// # Errors
/// If a disk reports a write error.
pub(crate) fn sync() -> Result<()> {
    let mounts = files::of_this_process("mountinfo").context("/proc/self/mountinfo")?;
    let kinds = files::text("/proc/filesystems").context("/proc/filesystems")?;
    // An error of one disk does not keep the others from being synced.
    writable(&mounts, &kinds).iter().map(|mount| sync_one(mount)).fold(Ok(()), Result::and)
}

/// Syncs the filesystem that is mounted there.
fn sync_one(mount: &Path) -> Result<()> {
    let file = match files::open_directory(mount) {
        // It was unmounted meanwhile, or another filesystem is mounted over it.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file.with_context(|| mount.display().to_string())?,
    };
    match syncfs(&file) {
        Err(Errno::ROFS) => Ok(()),
        synced => synced.with_context(|| format!("{}: the disk did not take what was written", mount.display())),
    }
}

/// Does some work, and meanwhile syncs in the background whenever the work asks for it.
///
/// # Errors
/// That of the work, or else that of the first sync that failed: syncfs(2) reports a write error once, so a later sync would succeed.
pub(crate) fn sync_during<T>(work: impl FnOnce(&dyn Fn()) -> Result<T>) -> Result<T> {
    in_background(sync, work)
}

fn in_background<T>(sync: impl Fn() -> Result<()> + Send, work: impl FnOnce(&dyn Fn()) -> Result<T>) -> Result<T> {
    let (asks, asked) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        let syncs = scope.spawn(move || asked.iter().try_for_each(|()| sync()));
        let result = work(&|| {
            // If one is still to be done, it comes after this.
            let _ = asks.try_send(());
        });
        drop(asks);
        let synced = syncs.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")));
        let value = result?;
        synced?;
        Ok(value)
    })
}

/// True if the filesystem of a directory is read-only, or became so after an error. Changes nothing.
///
/// statvfs(3) does not tell the latter: an ext4 of Linux 6.15 with `errors=remount-ro` still says that it is writable.
///
/// # Errors
/// If the directory is not there.
pub(crate) fn is_read_only(directory: &Path) -> Result<bool> {
    let context = || directory.display().to_string();
    if statvfs(directory).with_context(context)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    // A file without a name. Other errors do not speak of the whole filesystem: it may be full, or cannot make such a file.
    let nameless = openat(CWD, directory, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    Ok(matches!(nameless, Err(Errno::ROFS | Errno::IO)))
}

/// What an admin does about a read-only filesystem, as a sentence.
pub(crate) fn how_to_make_writable(directory: &Path) -> String {
    let shown = directory.display();
    format!(
        "If nothing else is wrong with the disk (`dmesg`): `mount -o remount,rw` what `findmnt -T {shown}` shows; if that fails, reboot."
    )
}

/// What the errors of a disk that fails, is full, or is read-only have in common, whichever program reports them.
const OF_DISK: [Errno; 4] = [Errno::ROFS, Errno::IO, Errno::NOSPC, Errno::DQUOT];

/// True if an error, or a program that it quotes, says that a disk fails, is full, or is read-only.
pub(crate) fn is_of_disk(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    OF_DISK.iter().any(|errno| {
        let message = std::io::Error::from(*errno).to_string();
        text.contains(message.split(" (os error").next().unwrap_or(&message))
    })
}

/// One directory of each writable filesystem that has a disk: from the text of /proc/self/mountinfo (proc(5)) and /proc/filesystems.
fn writable(mounts: &str, kinds: &str) -> Vec<PathBuf> {
    let has_disk = |kind: &str| {
        WITH_DISK.contains(&kind) || kinds.lines().any(|line| line.trim_start() == kind && !line.starts_with("nodev"))
    };
    let mut known = BTreeSet::new();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let mut fields = mount.split(' ').skip(2);
        let (Some(device), Some(_), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let mut filesystem = filesystem.split(' ');
        let (Some(kind), Some(options)) = (filesystem.next(), filesystem.nth(1)) else { continue };
        let path = PathBuf::from(unescaped(path));
        // A mount on a file belongs to the host of a container.
        let is_writable = options.split(',').next() == Some("rw");
        if has_disk(kind)
            && is_writable
            && files::metadata(&path).is_ok_and(|there| there.is_dir())
            && known.insert(device.to_owned())
        {
            found.push(path);
        }
    }
    found
}

/// A path without the escapes of mountinfo: a space is `\040`.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (escape, character)| path.replace(escape, character))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn each_writable_filesystem_with_a_disk_is_synced_once() {
        let kinds = "nodev\tsysfs\nnodev\tproc\n\text4\n\txfs\nnodev\ttmpfs\nnodev\toverlay\nnodev\tnfs4\n";
        let mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            23 22 0:21 / /proc rw - proc proc rw\n\
            24 22 8:1 /var /usr rw - ext4 /dev/sda1 rw\n\
            25 22 8:2 / /tmp ro - xfs /dev/sda2 ro\n\
            26 22 8:3 / /etc rw - xfs /dev/sda3 rw\n\
            27 22 0:40 / /run rw - tmpfs tmpfs rw\n\
            28 22 0:50 / /var rw - nfs4 server:/ rw\n\
            29 22 8:4 / /etc/passwd rw - ext4 /dev/sda4 rw\n";
        assert_eq!(writable(mounts, kinds), [Path::new("/"), Path::new("/etc")]);
        assert_eq!(unescaped("/a\\040b"), "/a b");
    }

    #[test]
    fn a_directory_that_can_be_written_is_not_on_a_read_only_filesystem() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_read_only(directory.path()).unwrap());
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
        assert!(is_read_only(Path::new("/not/there")).is_err());
    }

    #[test]
    fn an_error_of_a_disk_is_told_from_others_whoever_reports_it() {
        let of = |errno: Errno| anyhow::Error::from(std::io::Error::from(errno)).context("/etc/fstab");
        assert!(OF_DISK.into_iter().all(|errno| is_of_disk(&of(errno))));
        assert!(is_of_disk(&anyhow::anyhow!(
            "E: Could not create temporary file - mkstemp (30: Read-only file system)"
        )));
        assert!(!is_of_disk(&of(Errno::NOENT)));
    }

    // Other tests of this host may have a disk that fails.
    #[test]
    fn an_error_of_a_sync_in_the_background_is_not_lost() {
        let failing = || Err(anyhow!("the disk did not take it"));
        let asked = |ask: &dyn Fn()| {
            ask();
            Ok(())
        };
        let error = in_background(failing, asked).expect_err("the sync failed");
        assert_eq!(error.to_string(), "the disk did not take it");
        assert!(in_background(|| Ok(()), asked).is_ok());
        let error = in_background(failing, |_| Err::<(), _>(anyhow!("the work"))).expect_err("the work failed");
        assert_eq!(error.to_string(), "the work");
    }

    #[test]
    fn a_filesystem_is_synced_unless_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        sync_one(directory.path()).unwrap();
        sync_one(Path::new("/not/there")).unwrap();
    }
}
