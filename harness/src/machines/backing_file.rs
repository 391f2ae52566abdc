//! The backing file of a disk, served by FUSE: it records writes and flushes, delays flushes, and fails writes.
//!
//! The file is the root of its FUSE filesystem, so the mount point is a file, too. Requests are passed on to another file, the image.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session,
    WriteFlags,
};
use rustix::fs::FallocateFlags;
use rustix::mount::{UnmountFlags, unmount};

use super::write_record::{BLOCK, WriteRecord, punch_hole};

/// How long a container or a loop device may keep a disk busy after it was removed.
pub(super) const RELEASED_WITHIN: Duration = Duration::from_secs(20);

/// How many requests are served at once, so that a flush does not hold up reads.
const THREADS: usize = 4;

/// How long the kernel may cache the attributes of the file. Its size never changes.
const ATTRIBUTES_CACHED: Duration = Duration::from_secs(3600);

/// How a disk fails. Reads succeed. A filesystem above sees EIO in both cases, because a loop device passes on no other error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFailure {
    /// Writes, discards and flushes fail with EIO.
    Io,
    /// Writes and discards fail with ENOSPC, as where a virtual disk has more blocks than its storage. Flushes succeed.
    NoSpace,
}

/// A file served by FUSE. Unmounted when dropped.
pub struct BackingFile {
    server: Arc<Server>,
    path: PathBuf,
    session: BackgroundSession,
}

/// The image, and what happens to requests on their way there.
struct Server {
    image: File,
    size: u64,
    /// Held while a write is passed on, so that the image and the record have writes in the same order.
    state: Mutex<State>,
}

/// What happens to requests.
#[derive(Default)]
struct State {
    flush_delay: Duration,
    failure: Option<Failure>,
    /// How many writes and flushes have failed.
    failed: u64,
    record: Option<WriteRecord>,
}

struct Failure {
    how: DiskFailure,
    /// How many writes succeed before.
    writes_left: u64,
}

impl fmt::Debug for BackingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackingFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl BackingFile {
    /// Serves an image at a path, where a file is made if there is none.
    ///
    /// # Errors
    /// If the kernel has no FUSE, or this process is not root.
    pub fn serve(image: &Path, path: &Path) -> Result<Self> {
        let image = OpenOptions::new().read(true).write(true).open(image)?;
        let size = image.metadata()?.len();
        let server = Arc::new(Server { image, size, state: Mutex::default() });
        OpenOptions::new().create(true).append(true).open(path)?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("xivo-upgrade-disk".to_owned())];
        config.n_threads = Some(THREADS);
        let session = Session::new(Requests(Arc::clone(&server)), path, &config)
            .and_then(Session::spawn)
            .with_context(|| format!("{} cannot be served by FUSE", path.display()))?;
        Ok(Self { server, path: path.to_owned(), session })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes each flush take that much longer from now on.
    pub fn delay_flushes(&self, delay: Duration) {
        self.server.state().flush_delay = delay;
    }

    /// Makes writes fail from now on, after so many have succeeded.
    pub fn fail_after(&self, writes: u64, how: DiskFailure) {
        self.server.state().failure = Some(Failure { how, writes_left: writes });
    }

    /// Makes writes succeed again.
    pub fn stop_failing(&self) {
        self.server.state().failure = None;
    }

    /// How many writes, discards and flushes have failed so far.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.server.state().failed
    }

    /// Begins to record writes and flushes. The image is captured while no write is passed on.
    pub(super) fn start_recording<T>(&self, log: File, capture: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut state = self.server.state();
        let before = capture()?;
        state.record = Some(WriteRecord::new(log));
        Ok(before)
    }

    /// How many writes, discards and flushes have been recorded so far.
    #[must_use]
    pub fn recorded(&self) -> usize {
        self.server.state().record.as_ref().map_or(0, |record| record.operations().len())
    }

    /// Ends the record, and gives it.
    ///
    /// # Errors
    /// If there is none.
    pub fn stop_recording(&self) -> Result<WriteRecord> {
        self.server.state().record.take().context("nothing was recorded")
    }
}

impl Drop for BackingFile {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
        // The kernel releases the loop device later. The threads of the session end then, and close the image.
        let deadline = Instant::now() + RELEASED_WITHIN;
        while !self.session.guard.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Ends the FUSE filesystem at a path whose process is gone: all requests fail from now on, also those that wait for an answer.
pub(super) fn abort(path: &Path) {
    // It fails where nothing is mounted.
    let _ = unmount(path, UnmountFlags::FORCE | UnmountFlags::DETACH);
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let size = u64::from(size).min(self.size.saturating_sub(offset));
        let mut data = vec![0; usize::try_from(size).unwrap_or(0)];
        self.image.read_exact_at(&mut data, offset)?;
        Ok(data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let mut state = self.state();
        state.count_write()?;
        self.image.write_all_at(data, offset)?;
        Ok(state.record.as_mut().map_or(Ok(()), |record| record.write(offset, data))?)
    }

    /// Makes a range zero.
    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let mut state = self.state();
        state.count_write()?;
        punch_hole(&self.image, offset, length)?;
        if let Some(record) = &mut state.record {
            record.discard(offset, length);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Errno> {
        let mut state = self.state();
        if state.failure.as_ref().is_some_and(|failure| failure.writes_left == 0 && failure.how == DiskFailure::Io) {
            state.failed += 1;
            return Err(Errno::EIO);
        }
        if let Some(record) = &mut state.record {
            record.flush();
        }
        let delay = state.flush_delay;
        drop(state);
        std::thread::sleep(delay);
        Ok(self.image.sync_data()?)
    }
}

impl State {
    /// Counts a write or discard, which may fail.
    fn count_write(&mut self) -> Result<(), Errno> {
        let Some(failure) = &mut self.failure else { return Ok(()) };
        if failure.writes_left > 0 {
            failure.writes_left -= 1;
            return Ok(());
        }
        self.failed += 1;
        Err(match failure.how {
            DiskFailure::Io => Errno::EIO,
            DiskFailure::NoSpace => Errno::ENOSPC,
        })
    }
}

/// The requests of the kernel, each of which is answered by the server.
struct Requests(Arc<Server>);

impl Filesystem for Requests {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let (size, time) = (self.0.size, SystemTime::UNIX_EPOCH);
        let attributes = FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        };
        reply.attr(&ATTRIBUTES_CACHED, &attributes);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // The filesystem above has a cache of its own.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.read(offset, size) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.write(offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // This is close(2), not the flush of a disk.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.0.flush());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // The size of a block is the granularity of discards.
        reply.statfs(self.0.size / u64::from(BLOCK), 0, 0, 1, 0, BLOCK, 255, BLOCK);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        if mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            answer(reply, self.0.discard(offset, length));
        } else {
            reply.error(Errno::EOPNOTSUPP);
        }
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};
    use std::io::Write as _;

    use super::*;
    use crate::command::{run_with, silently};
    use crate::machines::disk::{Backing, Disk, Filesystem};
    use crate::machines::lab::{is_possible, sweep};
    use crate::machines::write_record::{Loss, Operation, PowerCut};

    /// Writes a file on a disk, and syncs it.
    fn write_synced(disk: &Disk, name: &str, content: &str) -> io::Result<()> {
        let mut file = File::create(disk.path().join(name))?;
        file.write_all(content.as_bytes())?;
        file.sync_all()
    }

    #[test]
    fn what_was_synced_is_on_the_disk_although_unflushed_writes_are_lost() {
        for filesystem in Filesystem::ALL.into_iter().filter(|_| is_possible().is_ok()) {
            let disk = Disk::empty(filesystem, Backing::Served).unwrap();
            let served = disk.served().unwrap();
            let before = disk.start_recording().unwrap();
            write_synced(&disk, "first", &"one\n".repeat(10_000)).unwrap();
            let after_first = served.recorded();
            write_synced(&disk, "second", "two\n").unwrap();
            let record = served.stop_recording().unwrap();
            let operations = record.operations();
            assert_eq!(operations[..after_first].last(), Some(&Operation::Flush), "{filesystem}");
            let cut = |after, loss| PowerCut { after, loss };
            let cuts = [
                cut(operations.len(), Loss::All),
                cut(0, Loss::All),
                cut(operations.len() - 1, Loss::All),
                cut(after_first, Loss::All),
                cut(operations.len() - 1, Loss::Some { seed: 1 }),
            ];
            let captures = record.images(&before, &cuts).unwrap();
            let has = captures.iter().map(|capture| {
                let disk = Disk::of_capture(capture).unwrap();
                let read = |name| std::fs::read_to_string(disk.path().join(name)).unwrap_or_default().len();
                (read("first"), read("second"))
            });
            let has: Vec<(usize, usize)> = has.collect();
            assert_eq!(has[..4].iter().map(|(first, _)| *first).collect::<Vec<_>>(), [40_000, 0, 40_000, 40_000]);
            assert_eq!((has[0].1, has[3].1, has[4].0), (4, 0, 40_000), "{filesystem}");
        }
    }

    #[test]
    fn flushes_can_be_delayed() {
        if is_possible().is_err() {
            return;
        }
        let disk = Disk::empty(Filesystem::Ext4, Backing::Served).unwrap();
        disk.served().unwrap().delay_flushes(Duration::from_millis(50));
        let begin = Instant::now();
        write_synced(&disk, "file", "text").unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(50), "{:?}", begin.elapsed());
    }

    #[test]
    fn writes_fail_until_the_disk_is_well_again() {
        if is_possible().is_err() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (image, path) = (directory.path().join("image"), directory.path().join("served"));
        std::fs::write(&image, [b'.'; 8192]).unwrap();
        let served = BackingFile::serve(&image, &path).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(served.path()).unwrap();
        let write = |text: &str| file.write_all_at(text.as_bytes(), 4096).map_err(|error| error.raw_os_error());
        let flush = || file.sync_data().map_err(|error| error.raw_os_error());
        served.fail_after(1, DiskFailure::Io);
        assert_eq!((flush(), write("a"), write("b"), flush()), (Ok(()), Ok(()), Err(Some(5)), Err(Some(5))));
        served.fail_after(0, DiskFailure::NoSpace);
        assert_eq!((write("c"), flush(), served.failed()), (Err(Some(28)), Ok(()), 3));
        served.stop_failing();
        assert_eq!((write("d"), flush()), (Ok(()), Ok(())));
        drop((file, served));
        assert_eq!(std::fs::read(&image).unwrap()[4095..4098], *b".d.");
    }

    /// Has the name of a file for the path of the disk, in a process that makes a disk and is killed.
    const KILLED: &str = "XIVO_UPGRADE_TEST_KILLED";

    #[test]
    fn the_disk_of_a_killed_process_is_removed_although_it_is_written() {
        if is_possible().is_err() {
            return;
        }
        if let Some(killed) = std::env::var_os(KILLED) {
            let disk = Disk::empty(Filesystem::Ext4, Backing::Served).unwrap();
            std::fs::write(killed, disk.path().to_str().unwrap()).unwrap();
            disk.start_recording().unwrap();
            // Another process writes until the disk fails, as those of a machine do.
            let file = disk.path().join("file");
            std::thread::spawn(move || {
                let script = "while date >$0 && sync $0; do :; done";
                silently(Path::new("sh"), ["-c".as_ref(), script.as_ref(), file.as_os_str()])
            });
            while disk.served().unwrap().recorded() < 100 {
                std::thread::sleep(Duration::from_millis(1));
            }
            kill_process(getpid(), Signal::KILL).unwrap();
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let this = std::env::current_exe().unwrap();
        let test = "machines::backing_file::tests::the_disk_of_a_killed_process_is_removed_although_it_is_written";
        run_with(&this, ["--exact".as_ref(), test.as_ref()], &[(KILLED, file.path().as_os_str())]).unwrap_err();
        let path = std::fs::read_to_string(file.path()).unwrap();
        let disk = Path::new(&path).parent().unwrap();
        sweep().unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(disk.to_str().unwrap()), "{mounts}");
        assert!(!disk.exists(), "{path}");
    }
}
