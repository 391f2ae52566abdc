//! Hands each event of a run to its subscribers: displays, recorders and the report. What the events are is [`crate::model::event`].

use crate::model::apt_status::AptStatus;
use crate::model::event::{Event, Reader};
use crate::model::report::Report;

/// The readers of a run's events: spectators, which show it to somebody, and records, which keep it.
#[derive(Default)]
pub struct Events<'a> {
    spectators: Vec<Box<dyn Reader + 'a>>,
    records: Vec<Box<dyn Reader + 'a>>,
    report: Report,
}

impl<'a> Events<'a> {
    /// One more spectator.
    pub fn show_on(&mut self, spectator: impl Reader + 'a) {
        self.spectators.push(Box::new(spectator));
    }

    /// One more record.
    pub fn record_in(&mut self, record: impl Reader + 'a) {
        self.records.push(Box::new(record));
    }

    /// From here on another process keeps the records.
    pub fn stop_recording(&mut self) {
        self.records.clear();
    }

    /// True if the records are kept by this process.
    #[must_use]
    pub fn are_recorded(&self) -> bool {
        !self.records.is_empty()
    }

    /// Tells every reader what happened here.
    #[expect(clippy::needless_pass_by_value, reason = "events are made where they are told")]
    pub fn tell(&mut self, event: Event) {
        for record in &mut self.records {
            record.read(&event);
        }
        self.show(&event);
    }

    /// Shows what another process did and has recorded.
    pub fn show(&mut self, event: &Event) {
        self.report.read(event);
        for spectator in &mut self.spectators {
            spectator.read(event);
        }
    }

    /// Takes note of what was shown and recorded before by another process.
    pub fn remember(&mut self, event: &Event) {
        self.report.read(event);
    }

    /// All that was told so far, in one piece.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Where the lines of an external program go, under its name.
    pub fn output_of(&mut self, source: &str) -> impl FnMut(&str) {
        let source = source.to_owned();
        move |line| self.tell(Event::Output { source: source.clone(), line: line.to_owned() })
    }

    /// Where apt's lines and its progress go.
    pub fn news_of_apt(&mut self) -> impl FnMut(AptStatus<'_>) {
        let mut last = (0, String::new());
        move |news| match news {
            AptStatus::Line(line) => self.tell(Event::Output { source: "apt-get".to_owned(), line: line.to_owned() }),
            AptStatus::Progress { percent, what } => {
                if last != (percent, what.to_owned()) {
                    last = (percent, what.to_owned());
                    self.tell(Event::Progress { percent, what: what.to_owned() });
                }
            }
        }
    }
}
