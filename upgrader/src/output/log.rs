//! A subscriber that writes events to the log file.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::{Timestamp, Unit};

use crate::model::event::{Event, Subscriber};
use crate::output::sentences;

/// The log file: every event and every line of every program, each with its time.
#[derive(Debug)]
pub(crate) struct Log<W> {
    writer: W,
}

impl Log<File> {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // The output of scripts and the differences of conffiles may be private.
        let file = File::options().append(true).create(true).mode(0o640).open(path);
        Ok(Self { writer: file.with_context(|| format!("{}: cannot be written", path.display()))? })
    }
}

impl<W: Write> Log<W> {
    fn write(&mut self, text: &str) {
        let now = Timestamp::now().round(Unit::Millisecond).unwrap_or_default();
        for line in text.lines() {
            // A full disk must not end an upgrade.
            let _ = writeln!(self.writer, "{now} {line}");
        }
    }
}

impl<W: Write> Subscriber for Log<W> {
    fn receive(&mut self, event: &Event) {
        if let Some(text) = sentences::of(event) {
            self.write(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_time_and_its_source() {
        let mut log = Log { writer: Vec::new() };
        log.receive(&Event::Output { source: "apt-get".to_owned(), line: "Reading package lists...".to_owned() });
        let text = String::from_utf8(log.writer).expect("text");
        let (time, rest) = text.split_once(' ').expect("a time first");
        assert!(time.parse::<Timestamp>().is_ok(), "{time}");
        assert_eq!(rest, "apt-get: Reading package lists...\n");
    }
}
