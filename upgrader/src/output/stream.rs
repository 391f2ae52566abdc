//! The run under way, recorded by who works and read by who looks on.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::model::event::{Event, Subscriber};

/// How many bytes of programs' output are recorded, as they lie in the file; after that, the log alone has it. The file is in
/// memory.
const MOST_OUTPUT: usize = 8 * 1024 * 1024;

/// The run under way as a file of events, one JSON line each, for the processes that follow it. It is in memory (/run): what
/// outlives the machine's boot is the history and the log.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: File,
    output: usize,
}

impl Recorder {
    /// A new run begins: what was there of an earlier one is gone.
    pub(crate) fn begin(path: &Path) -> Result<Self> {
        // Removed and not emptied: whoever still follows the earlier run keeps what it was.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context(cannot(path)),
            _ => Self::append(path),
        }
    }

    /// The run goes on in another process. Output of programs may be private: only root can read the file.
    pub(crate) fn append(path: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).mode(0o600).open(path);
        Ok(Self { file: file.with_context(|| cannot(path))?, output: 0 })
    }
}

fn cannot(path: &Path) -> String {
    format!("{}: cannot be written", path.display())
}

impl Subscriber for Recorder {
    fn receive(&mut self, event: &Event) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            if matches!(event, Event::Output { .. }) {
                self.output = self.output.saturating_add(line.len());
                if self.output > MOST_OUTPUT {
                    return;
                }
            }
            // In one piece, so that nobody reads half a line; a full memory must not end an upgrade.
            let _ = self.file.write_all(&line);
        }
    }
}

/// The events of a run, read while another process records them.
#[derive(Debug)]
pub(crate) struct Follower {
    reader: BufReader<File>,
    /// The beginning of a line whose end is not written yet.
    unfinished: Vec<u8>,
    /// Tells when more is recorded. None where others have used up what the kernel has of this: then one looks every [`GLANCE`].
    changes: Option<OwnedFd>,
}

/// How often to look for more where nothing tells.
const GLANCE: Duration = Duration::from_millis(100);

fn watch(path: &Path) -> rustix::io::Result<OwnedFd> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&changes, path, WatchFlags::MODIFY)?;
    Ok(changes)
}

impl Follower {
    /// Opens a recording at its beginning.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("{}: cannot be followed", path.display()))?;
        Ok(Self { reader: BufReader::new(file), unfinished: Vec::new(), changes: watch(path).ok() })
    }

    /// The next event that is there already. Lines that are no event this program knows are passed over.
    pub(crate) fn read(&mut self) -> Option<Event> {
        while let Ok(count) = self.reader.read_until(b'\n', &mut self.unfinished) {
            if count == 0 || !self.unfinished.ends_with(b"\n") {
                return None;
            }
            let event = serde_json::from_slice(&self.unfinished);
            self.unfinished.clear();
            if let Ok(event) = event {
                return Some(event);
            }
        }
        None
    }

    /// True if something was recorded that is not read yet.
    pub(crate) fn has_more(&mut self) -> bool {
        self.reader.fill_buf().is_ok_and(|bytes| !bytes.is_empty())
    }

    /// Passes over everything that is there already.
    pub(crate) fn skip(&mut self) {
        while self.read().is_some() {}
    }

    /// Waits until more is recorded, a signal arrives, or this much time has passed.
    pub(crate) fn wait(&self, patience: Duration) {
        let Some(changes) = &self.changes else { return std::thread::sleep(patience.min(GLANCE)) };
        let Ok(patience) = Timespec::try_from(patience) else { return };
        let _ = poll(&mut [PollFd::new(changes, PollFlags::IN)], Some(&patience));
        let _ = rustix::io::read(changes, &mut [0_u8; 4096]);
    }
}

/// All events of a recording.
pub(crate) fn read(path: &Path) -> Result<Vec<Event>> {
    let mut follower = Follower::open(path)?;
    Ok(std::iter::from_fn(|| follower.read()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_followed_whole_line_by_whole_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events");
        let mut recorder = Recorder::begin(&path).expect("writable");
        let mut follower = Follower::open(&path).expect("there");
        assert_eq!(follower.read(), None);
        recorder.receive(&Event::Answered(true));
        // Somebody newer tells of something else, and is not done with the next line.
        write!(recorder.file, "{{\"teleported\": 3}}\nnonsense\n{{\"answ").expect("written");
        assert_eq!(follower.read(), Some(Event::Answered(true)));
        assert_eq!(follower.read(), None);
        writeln!(recorder.file, "ered\": false}}").expect("written");
        follower.wait(Duration::from_secs(10));
        assert_eq!(follower.read(), Some(Event::Answered(false)));
    }

    #[test]
    fn without_inotify_a_recording_is_followed_all_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events");
        let mut recorder = Recorder::begin(&path).expect("writable");
        let mut follower = Follower { changes: None, ..Follower::open(&path).expect("there") };
        recorder.receive(&Event::Repairing);
        follower.wait(Duration::from_secs(10));
        assert_eq!(follower.read(), Some(Event::Repairing));
    }

    #[test]
    fn a_new_run_begins_a_new_recording_and_one_that_goes_on_does_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events");
        Recorder::begin(&path).expect("writable").receive(&Event::Answered(true));
        Recorder::append(&path).expect("writable").receive(&Event::Repairing);
        assert_eq!(read(&path).expect("there"), [Event::Answered(true), Event::Repairing]);
        drop(Recorder::begin(&path).expect("writable"));
        assert_eq!(read(&path).expect("there"), []);
    }

    #[test]
    fn a_flood_of_output_does_not_fill_the_memory_and_what_counts_still_comes_through() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events");
        let mut recorder = Recorder::begin(&path).expect("writable");
        for (length, count) in [(1, 200_000), (64 * 1024, 1000)] {
            let flood = Event::Output { source: "hook".to_owned(), line: "y".repeat(length) };
            for _ in 0..count {
                recorder.receive(&flood);
            }
        }
        recorder.receive(&Event::Repairing);
        assert!(path.metadata().expect("there").len() < 10_000_000);
        assert_eq!(read(&path).expect("there").last(), Some(&Event::Repairing));
    }
}
