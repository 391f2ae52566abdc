use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Deserialize;

use super::record::{Kind, Span};
use crate::machine::Machine;
use crate::observation::{Mark, STARTED, STOPPING};

/// What happened when in the runs since a mark: steps, hooks and packages as the log tells it, outages as systemd does.
pub(crate) fn since(mark: &Mark, log: &str, machine: &Machine, services: &[&str]) -> Result<Vec<Span>> {
    let journal = machine.sh(&format!(
        "journalctl --quiet --after-cursor='{}' --output=json --output-fields=MESSAGE_ID,UNIT _PID=1",
        mark.cursor()
    ))?;
    read(log, &journal, services)
}

/// The fields of systemd's own journal entries that matter here.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "MESSAGE_ID")]
    message: Option<String>,
    #[serde(rename = "UNIT")]
    unit: Option<String>,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    microseconds: String,
}

/// Spans that have begun, each with the moment in milliseconds since 1970.
#[derive(Default)]
struct Spans {
    begun: BTreeMap<(Kind, String), i64>,
    spans: Vec<(Kind, String, i64, Option<i64>, bool)>,
}

impl Spans {
    fn begin(&mut self, kind: Kind, name: &str, time: i64) {
        self.begun.entry((kind, name.to_owned())).or_insert(time);
    }

    fn end(&mut self, kind: Kind, name: &str, time: i64, good: bool) {
        if let Some(begin) = self.begun.remove(&(kind, name.to_owned())) {
            self.spans.push((kind, name.to_owned(), begin, Some(time), good));
        }
    }

    /// Ends what is under way of a kind.
    fn end_all(&mut self, kind: Kind, time: i64, good: bool) {
        let names: Vec<String> =
            self.begun.keys().filter(|(begun, _)| *begun == kind).map(|(_, name)| name.clone()).collect();
        for name in names {
            self.end(kind, &name, time, good);
        }
    }

    fn relative(mut self) -> Vec<Span> {
        self.spans.extend(self.begun.into_iter().map(|((kind, name), begin)| (kind, name, begin, None, false)));
        let start = self.spans.iter().map(|(_, _, begin, ..)| *begin).min().unwrap_or_default();
        let since = |time: i64| u64::try_from(time - start).unwrap_or_default();
        let mut spans: Vec<Span> = self
            .spans
            .into_iter()
            .map(|(kind, name, begin, end, good)| Span { kind, name, begin: since(begin), end: end.map(since), good })
            .collect();
        spans.sort_by(|one, other| (one.begin, one.kind, &one.name).cmp(&(other.begin, other.kind, &other.name)));
        spans
    }
}

fn read(log: &str, journal: &str, services: &[&str]) -> Result<Vec<Span>> {
    let mut spans = Spans::default();
    for line in log.lines() {
        let Some((time, what)) = line.split_once(' ') else { continue };
        let Ok(time) = time.parse::<Timestamp>().map(Timestamp::as_millisecond) else { continue };
        if let Some(step) = what.strip_prefix("step ") {
            if let Some(step) = step.strip_suffix(" began") {
                // One that did not end has failed.
                spans.end_all(Kind::Step, time, false);
                spans.begin(Kind::Step, step, time);
            } else if let Some(step) = step.strip_suffix(" ended") {
                spans.end_all(Kind::MaintainerScript, time, true);
                spans.end(Kind::Step, step, time, true);
            }
        } else if let Some((_, hook)) = what.split_once(" hook ") {
            if let Some(hook) = hook.strip_suffix(" began") {
                spans.begin(Kind::Hook, hook, time);
            } else if let Some((hook, how)) = hook.split_once(' ') {
                spans.end(Kind::Hook, hook, time, !how.starts_with("failed"));
            }
        } else if let Some(said) = what.strip_prefix("apt-get: ") {
            let package = ["Setting up ", "Removing "].iter().find_map(|word| said.strip_prefix(word));
            if let Some(package) = package.and_then(|rest| rest.split(' ').next()) {
                spans.end_all(Kind::MaintainerScript, time, true);
                spans.begin(Kind::MaintainerScript, package, time);
            } else if said.starts_with("dpkg: error") {
                spans.end_all(Kind::MaintainerScript, time, false);
            }
        }
    }
    for line in journal.lines() {
        let entry: Entry = serde_json::from_str(line).with_context(|| format!("journal entry {line:?}"))?;
        let (Some(message), Some(unit)) = (entry.message, entry.unit) else { continue };
        let Some(service) = unit.strip_suffix(".service").filter(|unit| services.contains(unit)) else { continue };
        let time = entry.microseconds.parse::<i64>()? / 1000;
        if message == STOPPING {
            spans.begin(Kind::Outage, service, time);
        } else if message == STARTED {
            spans.end(Kind::Outage, service, time, true);
        }
    }
    Ok(spans.relative())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_from_the_log_and_from_systemd() {
        let log = "2026-11-22T10:00:00.000Z upgrader 0.1.0 started with arguments []
2026-11-22T10:00:00.100Z step packages began
2026-11-22T10:00:00.200Z apt-get: Setting up a (1) ...
2026-11-22T10:00:00.300Z apt-get: Setting up b (1) ...
2026-11-22T10:00:00.400Z step packages ended
2026-11-22T10:00:00.500Z post-upgrade hook 10-x began
2026-11-22T10:00:00.600Z post-upgrade hook 10-x failed with exit code 1 after 100 ms
2026-11-22T10:00:00.700Z step restart began
";
        let time = |milliseconds: i64| {
            ("2026-11-22T10:00:00Z".parse::<Timestamp>().unwrap().as_millisecond() + milliseconds) * 1000
        };
        let journal = [(STOPPING, 720), (STARTED, 750)].map(|(message, at)| {
            format!("{{\"MESSAGE_ID\":\"{message}\",\"UNIT\":\"s.service\",\"__REALTIME_TIMESTAMP\":\"{}\"}}", time(at))
        });
        let spans = read(log, &journal.join("\n"), &["s"]).unwrap();
        let spans: Vec<_> =
            spans.iter().map(|span| (span.kind, span.name.as_str(), span.begin, span.end, span.good)).collect();
        assert_eq!(
            spans,
            [
                (Kind::Step, "packages", 0, Some(300), true),
                (Kind::MaintainerScript, "a", 100, Some(200), true),
                (Kind::MaintainerScript, "b", 200, Some(300), true),
                (Kind::Hook, "10-x", 400, Some(500), false),
                (Kind::Step, "restart", 600, None, false),
                (Kind::Outage, "s", 620, Some(650), true),
            ]
        );
    }
}
