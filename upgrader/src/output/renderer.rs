//! Cleans events before they are rendered as text. The event stream, reports and the history keep their data as it is.

use crate::model::event::{Event, Subscriber};
use crate::printable;

/// A subscriber that renders events as text. What it receives is safe to show: each text in an event is one line, except for
/// messages of ours that may have several.
pub(crate) trait Renderer {
    /// Receives an event as [`Subscriber::receive`] does.
    fn receive_clean(&mut self, event: &Event);
}

impl<R: Renderer> Subscriber for R {
    fn receive(&mut self, event: &Event) {
        match event {
            Event::Output { source, line } => {
                let (source, line) = (printable::line(source).into_owned(), printable::line(line).into_owned());
                self.receive_clean(&Event::Output { source, line });
            }
            Event::Failed(text) => self.receive_clean(&Event::Failed(printable::lines(text).into_owned())),
            Event::Retrying(text) => self.receive_clean(&Event::Retrying(printable::lines(text).into_owned())),
            Event::Finished { exit, time, message } => {
                let message = printable::lines(message).into_owned();
                self.receive_clean(&Event::Finished { exit: *exit, time: *time, message });
            }
            // As JSON, so that no text can be forgotten.
            _ => {
                let document = serde_json::to_string(event).map(|document| printable::json_lines(&document));
                match document.and_then(|document| serde_json::from_slice(document.as_bytes())) {
                    Ok(event) => self.receive_clean(&event),
                    Err(error) => {
                        let (source, line) = ("upgrader".to_owned(), format!("an event cannot be shown: {error}"));
                        self.receive_clean(&Event::Output { source, line });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::exit::Exit;
    use crate::model::conffile::{ConffileOutcome, ConffileResult, EditedConffile};
    use crate::model::event::{Attention, InterruptedRun, RollbackPreview, SelfUpdateOutcome};
    use crate::model::finding::Finding;
    use crate::model::hook::{HookOutcome, Phase};
    use crate::model::plan::{Change, Plan};
    use crate::model::policy::ConffilePolicy;
    use crate::model::step::Step;
    use crate::output::journald;
    use crate::output::log::Log;
    use crate::output::screen::{Screen, Style};
    use crate::printable::HOSTILE;

    /// The variants of which a text may have several lines.
    const MESSAGES: [&str; 3] = ["failed", "retrying", "finished"];

    /// An event of each kind, with this text wherever there can be one.
    fn every(text: &str) -> Vec<Event> {
        let text = || text.to_owned();
        let time = Timestamp::UNIX_EPOCH;
        let plan = Plan {
            installed: text(),
            candidate: text(),
            changes: vec![
                Change::upgrade(&text(), &text(), &text()),
                Change::install(&text(), &text()),
                Change::remove(&text(), &text()),
            ],
            unfinished: vec![text()],
            unfinished_from: Some(text()),
            kept_back: vec![text()],
            migrations: vec![text()],
            conffiles: vec![EditedConffile {
                path: text().into(),
                package: text(),
                deleted: true,
                policy: ConffilePolicy::Keep,
            }],
            restart: vec![text()],
            ..Plan::default()
        };
        let conffile = ConffileResult {
            path: text().into(),
            outcome: ConffileOutcome::Kept,
            other: Some(text().into()),
            sha256_before: Some(text()),
            sha256_after: Some(text()),
        };
        let preview = RollbackPreview {
            product: text(),
            from: Some(text()),
            to: text(),
            since: time,
            changed_since: vec![text()],
            packages_since: vec![text()],
            database: Some(text()),
        };
        let interrupted = InterruptedRun {
            product: text(),
            from: text(),
            to: text(),
            step: Some(Step::Packages),
            hook: Some(text()),
            last: time,
            rolling_back: false,
            can_roll_back: false,
        };
        let (phase, ended) = (Phase::PreUpgrade, HookOutcome::Failed(text()));
        vec![
            Event::Started { version: text(), arguments: vec![text()], time },
            Event::Detached { unit: Some(text()), command: text() },
            Event::Attention(Attention::new(text(), text())),
            Event::Began(Step::Download),
            Event::Ended(Step::Download),
            Event::SelfUpdate { package: text(), from: text(), to: text(), outcome: SelfUpdateOutcome::Installed },
            Event::Planned { product: text(), own: vec![text()], plan: Box::new(plan) },
            Event::Waiting { who: text(), seconds: 10 },
            Event::Found(Finding::fatal(text(), text())),
            Event::Progress { percent: 1, what: text() },
            Event::Conffile(conffile),
            Event::Answered(true),
            Event::Repairing,
            Event::Interrupted(interrupted),
            Event::StepAlreadyDone(Step::Download),
            Event::HookAlreadyDone(phase, text()),
            Event::RollbackDataSaved { paths: 1, bytes: 1 },
            Event::Retrying(text()),
            Event::RollbackPreview(preview),
            Event::RollingBack { product: text(), to: text() },
            Event::Restored { changed: 1, removed: 1 },
            Event::DatabaseRestored { database: text(), kept_as: Some(text()) },
            Event::HookBegan(phase, text()),
            Event::HookSkipped(phase, text(), text()),
            Event::HookEnded { phase, hook: text(), ended, milliseconds: 1 },
            Event::DatabaseSaving { database: text(), directory: text() },
            Event::DatabaseSaved { file: text(), bytes: 1 },
            Event::Migrating(text()),
            Event::MigrationSkipped(text(), text()),
            Event::Migrated(text(), Err(text())),
            Event::ServiceRestarting(text()),
            Event::ServiceUp { service: text(), outage: 1 },
            Event::ServiceDown { service: text(), reason: text(), log: vec![text(), text()] },
            Event::ServiceSkipped(text(), text()),
            Event::OthersRestarting(vec![text(), text()]),
            Event::ManagerReexecuted(Err(text())),
            Event::RestartRecommended(vec![(text(), text())]),
            Event::RebootRecommended(vec![text(), text()]),
            Event::Output { source: text(), line: text() },
            Event::Failed(text()),
            Event::Finished { exit: Exit::Done, time, message: text() },
        ]
    }

    fn kind(event: &Event) -> String {
        let value = serde_json::to_value(event).expect("data");
        let name = value.as_str().or_else(|| value.as_object()?.keys().next().map(String::as_str));
        name.expect("a variant").to_owned()
    }

    /// What an event looks like on a screen that can do nothing, on one with colours, in the log and in systemd's journal.
    fn renderings(event: &Event) -> [String; 4] {
        let screen = |style| {
            let mut shown = Vec::new();
            Screen::new(&mut shown, style).verbose().receive(event);
            String::from_utf8(shown).expect("text")
        };
        let file = tempfile::NamedTempFile::new().expect("a file");
        Log::open(file.path()).expect("writable").receive(event);
        let log = std::fs::read_to_string(file.path()).expect("text");
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("socket");
        let server = std::os::unix::net::UnixDatagram::bind(&socket).expect("bound");
        server.set_nonblocking(true).expect("set");
        journald::Journald::connect_to(&socket, "acme-upgrade".to_owned()).expect("it listens").receive(event);
        let mut buffer = vec![0; 64 * 1024];
        let count = server.recv(&mut buffer).unwrap_or(0);
        let mut journal = String::new();
        let mut rest = &buffer[..count];
        // The length before a value of several lines is binary.
        while let Some(end) = rest.iter().position(|byte| b"=\n".contains(byte)) {
            let value = &rest[end + 1..];
            let (value, after) = if rest[end] == b'\n' {
                let (length, value) = value.split_at(8);
                value.split_at(usize::try_from(u64::from_le_bytes(length.try_into().expect("8 bytes"))).expect("short"))
            } else {
                value.split_at(value.iter().position(|byte| *byte == b'\n').expect("an end"))
            };
            journal.push_str(std::str::from_utf8(value).expect("text"));
            journal.push('\n');
            rest = &after[1..];
        }
        [screen(Style::Plain), screen(Style::Terminal { width: 200, colour: true }), log, journal]
    }

    /// Without the sequences that are ours.
    fn unstyled(text: &str) -> String {
        ["\x1b[32m", "\x1b[1;31m", "\x1b[0m", "\x1b[K"]
            .iter()
            .fold(text.replace('\r', ""), |text, ours| text.replace(ours, ""))
    }

    fn check(text: &str) -> Result<(), TestCaseError> {
        for (event, harmless) in every(text).iter().zip(every("x")) {
            for (shown, expected) in renderings(event).iter().zip(renderings(&harmless)) {
                let shown = unstyled(shown);
                prop_assert_eq!(&printable::lines(&shown), &shown, "{:?}", event);
                if !MESSAGES.contains(&kind(event).as_str()) {
                    prop_assert_eq!(
                        shown.matches('\n').count(),
                        expected.matches('\n').count(),
                        "{:?}: {}",
                        event,
                        shown
                    );
                }
            }
        }
        Ok(())
    }

    #[test]
    fn an_event_of_every_kind_is_checked() {
        let unknown = serde_json::from_str::<Event>("\"unknown\"").expect_err("there is none").to_string();
        let kinds: BTreeSet<String> = unknown.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect();
        assert_eq!(every("x").iter().map(kind).collect::<BTreeSet<_>>(), kinds);
    }

    #[test]
    fn no_name_adds_a_line_or_an_escape_sequence_to_a_rendering() {
        check(HOSTILE).expect("clean");
    }

    #[test]
    fn our_own_colours_and_lines_survive() {
        let [plain, coloured, log, _] = renderings(&Event::Attention(Attention::new("a", "b")));
        assert_eq!((plain.as_str(), coloured.as_str()), ("", ""));
        assert_eq!(log.lines().count(), 2);
        let [_, coloured, ..] = renderings(&Event::ServiceUp { service: "a".to_owned(), outage: 1 });
        assert!(coloured.contains("\x1b[32mOK\x1b[0m"), "{coloured:?}");
        let failed = Event::Failed("error: a\nWhat to do: b".to_owned());
        assert_eq!(renderings(&failed)[2].lines().count(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn whatever_something_is_called_it_stays_on_its_line(text in prop_oneof![any::<String>(), "[\\\\u\"nx\n\r\t\u{1b}\u{9b}\u{2028}\u{202e}]{0,20}"]) {
            check(&text)?;
        }
    }
}
