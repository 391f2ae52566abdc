//! A subscriber that writes events to the log file.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::{Timestamp, Unit};

use crate::files;
use crate::model::event::Event;
use crate::output::renderer::Renderer;
use crate::output::sentences;

/// The log file: every event and every line of every program, each with its time.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
}

impl Log {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // The output of scripts and the differences of conffiles may be private.
        let file = files::append(path, 0o640);
        Ok(Self { file: file.with_context(|| format!("{}: cannot be written", path.display()))? })
    }
}

impl Renderer for Log {
    fn receive_clean(&mut self, event: &Event) {
        let now = Timestamp::now().round(Unit::Millisecond).unwrap_or_default();
        for line in sentences::of(event).unwrap_or_default().lines() {
            // A full disk must not end an upgrade.
            let _ = writeln!(self.file, "{now} {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Subscriber as _;

    #[test]
    fn each_line_has_its_time_and_its_source() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut log = Log::open(file.path()).expect("writable");
        log.receive(&Event::Output { source: "apt-get".to_owned(), line: "Reading package lists...".to_owned() });
        let text = std::fs::read_to_string(file.path()).expect("text");
        let (time, rest) = text.split_once(' ').expect("a time first");
        assert!(time.parse::<Timestamp>().is_ok(), "{time}");
        assert_eq!(rest, "apt-get: Reading package lists...\n");
    }
}
