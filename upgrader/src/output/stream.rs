//! The recording of the run under way: the worker writes it, and other processes follow it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::files;
use crate::model::event::{Event, Subscriber};
use crate::system::remove_file;

/// How many bytes of programs' output are recorded; the rest is in the log only. The file is in memory.
const MOST_OUTPUT: usize = 8 * 1024 * 1024;

/// Writes events to a file in memory (/run), each as a line of JSON. A reboot leaves the history and the log.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: File,
    output: usize,
}

impl Recorder {
    /// Replaces the recording of an earlier run.
    pub(crate) fn begin(path: &Path) -> Result<Self> {
        // Removed, not truncated: another process may still follow the earlier run.
        remove_file(path).with_context(|| path.display().to_string())?;
        Self::append(path)
    }

    /// Continues a recording. Only root can read it: the output of programs may be private.
    pub(crate) fn append(path: &Path) -> Result<Self> {
        let file = files::append(path, 0o600);
        Ok(Self { file: file.with_context(|| format!("{}: cannot be written", path.display()))?, output: 0 })
    }
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
            // In one write, so that readers see complete lines. Full memory must not end an upgrade.
            let _ = self.file.write_all(&line);
        }
    }
}

/// Reads the events of a run while another process records them.
#[derive(Debug)]
pub(crate) struct Follower {
    reader: BufReader<File>,
    /// The beginning of a line that is not complete yet.
    unfinished: Vec<u8>,
    /// inotify's descriptor. None if the kernel has no more of them: then the file is checked every [`INTERVAL`].
    changes: Option<OwnedFd>,
}

/// How often to check for more without inotify.
const INTERVAL: Duration = Duration::from_millis(100);

fn watch(path: &Path) -> rustix::io::Result<OwnedFd> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&changes, path, WatchFlags::MODIFY)?;
    Ok(changes)
}

impl Follower {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = files::open(path).with_context(|| format!("{}: cannot be followed", path.display()))?;
        Ok(Self { reader: BufReader::new(file), unfinished: Vec::new(), changes: watch(path).ok() })
    }

    /// The next event, if there is one already. Skips lines that are no known event.
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

    /// True if there is something to read already.
    pub(crate) fn has_more(&mut self) -> bool {
        self.reader.fill_buf().is_ok_and(|bytes| !bytes.is_empty())
    }

    /// Skips everything that is there already.
    pub(crate) fn skip(&mut self) {
        while self.read().is_some() {}
    }

    /// Waits for more, a signal or the timeout.
    pub(crate) fn wait(&self, timeout: Duration) {
        let Some(changes) = &self.changes else { return std::thread::sleep(timeout.min(INTERVAL)) };
        let Ok(timeout) = Timespec::try_from(timeout) else { return };
        let _ = poll(&mut [PollFd::new(changes, PollFlags::IN)], Some(&timeout));
        let _ = rustix::io::read(changes, &mut [0_u8; 4096]);
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<Event>> {
    let mut follower = Follower::open(path)?;
    Ok(std::iter::from_fn(|| follower.read()).collect())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events");
        (directory, path)
    }

    #[test]
    fn a_recording_is_followed_by_complete_lines() {
        let (_directory, path) = file();
        let mut recorder = Recorder::begin(&path).expect("writable");
        let mut follower = Follower::open(&path).expect("there");
        assert_eq!(follower.read(), None);
        recorder.receive(&Event::Answered(true));
        // A newer program has recorded an unknown event, and has not completed the next line.
        write!(recorder.file, "{{\"teleported\": 3}}\nnonsense\n{{\"answ").expect("written");
        assert_eq!(follower.read(), Some(Event::Answered(true)));
        assert_eq!(follower.read(), None);
        writeln!(recorder.file, "ered\": false}}").expect("written");
        follower.wait(Duration::from_secs(10));
        assert_eq!(follower.read(), Some(Event::Answered(false)));
    }

    #[test]
    fn a_recording_is_followed_without_inotify() {
        let (_directory, path) = file();
        let mut recorder = Recorder::begin(&path).expect("writable");
        let mut follower = Follower { changes: None, ..Follower::open(&path).expect("there") };
        recorder.receive(&Event::Repairing);
        follower.wait(Duration::from_secs(10));
        assert_eq!(follower.read(), Some(Event::Repairing));
    }

    #[test]
    fn a_new_run_replaces_the_recording_and_a_continued_one_appends() {
        let (_directory, path) = file();
        Recorder::begin(&path).expect("writable").receive(&Event::Answered(true));
        Recorder::append(&path).expect("writable").receive(&Event::Repairing);
        assert_eq!(read(&path).expect("there"), [Event::Answered(true), Event::Repairing]);
        drop(Recorder::begin(&path).expect("writable"));
        assert_eq!(read(&path).expect("there"), []);
    }

    #[test]
    fn a_flood_of_output_is_limited_and_other_events_still_follow() {
        let (_directory, path) = file();
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
