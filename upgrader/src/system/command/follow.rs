//! Follows a running program: hands over its lines and enforces its time limit.

use std::io::{ErrorKind, PipeReader, Read as _};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::groups::end_group;

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

/// Hands over lines until the child has ended. Its background processes are not waited for. The callback returns
/// true for a line that shows progress: then the time limit starts again.
pub(super) fn follow(
    child: &mut Child,
    mut output: PipeReader,
    mut status: Option<PipeReader>,
    mut deadline: Option<(Instant, Duration)>,
    said: &mut dyn FnMut(Said<'_>) -> bool,
) -> Result<Ended> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (mut lines, mut progress) = (Lines::default(), Lines::default());
    let mut output_open = true;
    let mut reads_left = Lines::READS_AFTER_THE_END;
    loop {
        let wait = match deadline {
            None => None,
            Some((at, limit)) => {
                let Some(left) = at.checked_duration_since(Instant::now()) else {
                    end_group(child)?;
                    return Ok(Ended::TimedOut(limit));
                };
                Some(Timespec::try_from(left)?)
            }
        };
        let mut waiting = vec![PollFd::new(&pidfd, PollFlags::IN)];
        waiting.extend(output_open.then(|| PollFd::new(&output, PollFlags::IN)));
        waiting.extend(status.as_ref().map(|status| PollFd::new(status, PollFlags::IN)));
        match poll(&mut waiting, wait.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let mut ready = waiting.iter().map(|waiting| !waiting.revents().is_empty());
        let child_ended = ready.next().unwrap_or_default();
        let readable = output_open && ready.next().unwrap_or_default();
        let progressed = status.is_some() && ready.next().unwrap_or_default();
        drop(ready);
        drop(waiting);
        if child_ended && (!readable || reads_left == 0) {
            lines.finish(&mut |line| {
                said(Said::Line(line));
            });
            return Ok(Ended::Status(child.wait()?));
        }
        let mut gets_on = false;
        if readable {
            output_open = lines.read(&mut output, &mut |line| gets_on |= said(Said::Line(line)))?;
            reads_left -= usize::from(child_ended);
        }
        if progressed
            && let Some(open) = &mut status
            && !progress.read(open, &mut |line| gets_on |= said(Said::Status(line)))?
        {
            status = None;
        }
        if let Some((at, limit)) = deadline.as_mut().filter(|_| gets_on) {
            *at = Instant::now() + *limit;
        }
    }
}

/// Splits bytes into lines. Invalid UTF-8 is replaced.
#[derive(Default)]
struct Lines {
    unfinished: Vec<u8>,
}

impl Lines {
    /// A line longer than this is handed over in pieces.
    const LONGEST: usize = 64 * 1024;
    const BUFFER: usize = 8 * 1024;
    /// A pipe holds 64 KiB (pipe(7)): after this many reads nothing is left that an ended program wrote itself.
    const READS_AFTER_THE_END: usize = 64 * 1024 / Self::BUFFER;

    /// Reads once. False at the end of the stream.
    fn read(&mut self, reader: &mut PipeReader, line: &mut dyn FnMut(&str)) -> Result<bool> {
        let mut buffer = [0; Self::BUFFER];
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let mut rest = &buffer[..count];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (whole, after) = rest.split_at(end + 1);
            self.unfinished.extend_from_slice(whole);
            self.finish(line);
            rest = after;
        }
        self.unfinished.extend_from_slice(rest);
        if self.unfinished.len() > Self::LONGEST {
            self.finish(line);
        }
        Ok(true)
    }

    /// Hands over the buffered bytes as one line.
    fn finish(&mut self, line: &mut dyn FnMut(&str)) {
        if !self.unfinished.is_empty() {
            let text = String::from_utf8_lossy(&self.unfinished);
            let text = text.trim_end_matches(['\r', '\n']);
            // Control characters must not reach the log or the screen.
            let control = |character: char| character.is_control() && character != '\t';
            if text.contains(control) {
                line(&text.replace(control, "\u{fffd}"));
            } else {
                line(text);
            }
            self.unfinished.clear();
        }
    }
}
