//! Follows a running program: hands over what it prints and enforces its time limit.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, Read as _};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::groups::end_group;
use crate::printable;

/// A line of a running program.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said<'a> {
    /// A line of its output.
    Line(&'a str),
    /// A line about its progress.
    Status(&'a str),
}

/// How a program ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It exited.
    Status(ExitStatus),
    /// It was ended at this time limit.
    TimedOut(Duration),
}

/// When a program is ended.
#[derive(Debug)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
    /// A file that the program writes, and its size: while it grows, the time limit starts again.
    pub(super) growing: Option<(File, u64)>,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit, growing: None }
    }

    fn restart(&mut self) {
        self.at = Instant::now() + self.limit;
    }

    /// The time that is left; none when it is over.
    fn left(&mut self) -> Option<Duration> {
        let left = self.at.checked_duration_since(Instant::now());
        if left.is_none()
            && let Some((file, size)) = &mut self.growing
            && let Ok(now) = file.metadata().map(|file| file.len())
            && now > *size
        {
            *size = now;
            self.restart();
            return Some(self.limit);
        }
        left
    }
}

/// Hands over what comes from these pipes, with the number of the pipe, until the child has ended. Its background processes are not
/// waited for. The callback returns true for progress: then the time limit starts again.
pub(super) fn follow(
    child: &mut Child,
    mut pipes: [Option<PipeReader>; 2],
    mut deadline: Option<Deadline>,
    received: &mut dyn FnMut(usize, &[u8]) -> bool,
) -> Result<Ended> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut reads_left = READS_AFTER_THE_END;
    loop {
        let wait = match &mut deadline {
            None => None,
            Some(deadline) => {
                let Some(left) = deadline.left() else {
                    end_group(child)?;
                    return Ok(Ended::TimedOut(deadline.limit));
                };
                Some(Timespec::try_from(left)?)
            }
        };
        let mut waiting = vec![PollFd::new(&pidfd, PollFlags::IN)];
        waiting.extend(pipes.iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut waiting, wait.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let ready: Vec<bool> = waiting.iter().map(|waiting| !waiting.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        let child_ended = ready.next().unwrap_or_default();
        if child_ended {
            if reads_left == 0 || !ready.clone().any(|ready| ready) {
                return Ok(Ended::Status(child.wait()?));
            }
            reads_left -= 1;
        }
        let mut gets_on = false;
        for (number, place) in pipes.iter_mut().enumerate() {
            let Some(pipe) = place else { continue };
            if ready.next().unwrap_or_default() {
                let mut buffer = [0; BUFFER];
                match pipe.read(&mut buffer) {
                    Ok(0) => *place = None,
                    Ok(count) => gets_on |= received(number, &buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if let Some(deadline) = deadline.as_mut().filter(|_| gets_on) {
            deadline.restart();
        }
    }
}

const BUFFER: usize = 8 * 1024;

/// A pipe holds 64 KiB (pipe(7)): after this many reads nothing is left that an ended program wrote itself.
const READS_AFTER_THE_END: usize = 64 * 1024 / BUFFER;

/// Splits bytes into lines. Invalid UTF-8 and control characters are replaced.
#[derive(Default)]
pub(super) struct Lines {
    unfinished: Vec<u8>,
}

impl Lines {
    /// A line longer than this is handed over in pieces.
    const LONGEST: usize = 64 * 1024;

    pub(super) fn add(&mut self, mut bytes: &[u8], line: &mut dyn FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (whole, after) = bytes.split_at(end + 1);
            self.unfinished.extend_from_slice(whole);
            self.finish(line);
            bytes = after;
        }
        self.unfinished.extend_from_slice(bytes);
        if self.unfinished.len() > Self::LONGEST {
            self.finish(line);
        }
    }

    /// Hands over the buffered bytes as one line.
    pub(super) fn finish(&mut self, line: &mut dyn FnMut(&str)) {
        if !self.unfinished.is_empty() {
            let text = String::from_utf8_lossy(&self.unfinished);
            line(&printable::line(text.trim_end_matches(['\r', '\n'])));
            self.unfinished.clear();
        }
    }
}
