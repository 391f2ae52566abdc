//! Hands each event of a run to its subscribers: displays, recorders and the report. What the events are is [`crate::model::event`].

use crate::model::event::{Attention, Event, Subscriber};
use crate::model::report::Report;

/// What apt reports while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AptStatus<'a> {
    /// A line that it, dpkg or a maintainer script printed.
    Line(&'a str),
    /// How far it is.
    Progress {
        /// In percent of what it does.
        percent: u8,
        /// What it is at.
        what: &'a str,
    },
}

/// The subscribers of a run: displays, which show events, and recorders, which save them.
#[derive(Default)]
pub struct Events<'a> {
    displays: Vec<Box<dyn Subscriber + 'a>>,
    recorders: Vec<Box<dyn Subscriber + 'a>>,
    report: Report,
}

impl<'a> Events<'a> {
    /// One more display.
    pub fn add_display(&mut self, display: impl Subscriber + 'a) {
        self.displays.push(Box::new(display));
    }

    /// One more recorder.
    pub fn add_recorder(&mut self, recorder: impl Subscriber + 'a) {
        self.recorders.push(Box::new(recorder));
    }

    /// Another process records from now on.
    pub fn stop_recording(&mut self) {
        self.recorders.clear();
    }

    /// True if this process records.
    pub fn are_recorded(&self) -> bool {
        !self.recorders.is_empty()
    }

    /// Sends an event of this process to every subscriber.
    #[expect(clippy::needless_pass_by_value, reason = "events are made where they are emitted")]
    pub fn emit(&mut self, event: Event) {
        for recorder in &mut self.recorders {
            recorder.receive(&event);
        }
        self.show(&event);
    }

    /// Emits what wants the admin's attention: what is so, and what to do.
    pub fn attention(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.emit(Event::Attention(Attention::new(message, remedy)));
    }

    /// Shows what another process did and has recorded.
    pub fn show(&mut self, event: &Event) {
        self.report.receive(event);
        for display in &mut self.displays {
            display.receive(event);
        }
    }

    /// Adds an event to the report that another process has shown and recorded.
    pub fn remember(&mut self, event: &Event) {
        self.report.receive(event);
    }

    /// The report of all events so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Where the lines of an external program go, under its name.
    pub fn output_of(&mut self, source: &str) -> impl FnMut(&str) {
        let source = source.to_owned();
        move |line| self.emit(Event::Output { source: source.clone(), line: line.to_owned() })
    }

    /// Where apt's lines and its progress go.
    pub fn apt_status(&mut self) -> impl FnMut(AptStatus<'_>) {
        let mut last = (0, String::new());
        move |news| match news {
            AptStatus::Line(line) => self.emit(Event::Output { source: "apt-get".to_owned(), line: line.to_owned() }),
            AptStatus::Progress { percent, what } => {
                if last != (percent, what.to_owned()) {
                    last = (percent, what.to_owned());
                    self.emit(Event::Progress { percent, what: what.to_owned() });
                }
            }
        }
    }
}
