//! What happened on a machine and when: hooks, stops and starts of services, and how long each thing took.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::machines::machine::Machine;
use crate::machines::product_machine::HOOK_MARKS;

/// systemd's message identifiers (sd-messages.h) for the transitions in a unit's life.
const STOPPING: &str = "de5b426a63be47a7b6ac3eaac82e2f6f";
const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";

/// A moment: a place in the machine's journal, and in the marks of its hooks.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Seconds since 1970, by the machine's clock.
    pub(crate) time: String,
    cursor: String,
    /// How many hooks had run before.
    hooks: usize,
}

/// What happened on a machine since a [`Mark`], from the marks of its hooks and systemd's journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Events {
    /// The hooks that ran, in order: `pre-upgrade 10-a (1.2.1 -> 1.2.2)`.
    pub hooks: Vec<String>,
    /// The stops of the product's services, in order.
    pub stops: Vec<String>,
    /// The starts of the product's services, in order.
    pub starts: Vec<String>,
    /// How long each service was down in all; `None` for one that went down and did not come back.
    pub outages: BTreeMap<String, Option<Duration>>,
    /// The stops and starts together, in order.
    pub transitions: Vec<Transition>,
}

/// The stop or the start of a service, as systemd's journal has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transition {
    /// The service.
    pub service: String,
    /// Whether it was started.
    pub up: bool,
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// When, in microseconds of the machine's monotonic clock.
    pub monotonic: u64,
}

/// A span of time in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// What it is.
    pub kind: SpanKind,
    /// Its name: that of the step, the hook, the package or the service.
    pub name: String,
    /// When it began, in milliseconds since the upgrader was started.
    pub begin: u64,
    /// When it ended; `None` if it did not.
    pub end: Option<u64>,
    /// False if it failed.
    pub good: bool,
}

/// What takes the time of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpanKind {
    /// A step of the upgrader.
    Step,
    /// A hook.
    Hook,
    /// The maintainer scripts of a package.
    MaintainerScript,
    /// A service is down.
    Outage,
}

impl Mark {
    /// The end of the journal as it is now.
    pub fn set(machine: &Machine) -> Result<Self> {
        Self::read(&machine.sh(&Self::script())?)
    }

    /// What prints it.
    pub(crate) fn script() -> String {
        format!(
            "date +%s.%N; cat {HOOK_MARKS} 2>/dev/null | wc -l; journalctl --quiet --lines=1 --show-cursor --output=cat"
        )
    }

    /// Reads what that printed.
    pub(crate) fn read(said: &str) -> Result<Self> {
        let (_, cursor) = said.rsplit_once("-- cursor: ").context("the journal has no cursor")?;
        let mut lines = said.lines().map(str::trim);
        let time = lines.next().unwrap_or_default().to_owned();
        let hooks = lines.next().unwrap_or_default().parse()?;
        Ok(Self { time, cursor: cursor.trim().to_owned(), hooks })
    }
}

/// The transitions of these services, from what `journalctl --output=json` prints.
fn transitions(journal: &str, services: &[&str]) -> Result<Vec<Transition>> {
    let mut transitions = Vec::new();
    for line in journal.lines() {
        let entry: Value = serde_json::from_str(line).with_context(|| format!("journal entry {line:?}"))?;
        let (Some(message), Some(unit)) = (entry["MESSAGE_ID"].as_str(), entry["UNIT"].as_str()) else { continue };
        let Some(service) = unit.strip_suffix(".service").filter(|unit| services.contains(unit)) else { continue };
        if message == STOPPING || message == STARTED {
            let microseconds = |field: &str| -> Result<u64> { Ok(entry[field].as_str().context("no time")?.parse()?) };
            transitions.push(Transition {
                service: service.to_owned(),
                up: message == STARTED,
                time: microseconds("__REALTIME_TIMESTAMP")? / 1000,
                monotonic: microseconds("__MONOTONIC_TIMESTAMP")?,
            });
        }
    }
    Ok(transitions)
}

impl Events {
    /// Reads what happened to these services, and which hooks ran, since a mark.
    pub fn since(mark: &Mark, machine: &Machine, services: &[&str]) -> Result<Self> {
        Self::read(&machine.sh(&Self::script(mark))?, services)
    }

    /// What prints it.
    pub(crate) fn script(mark: &Mark) -> String {
        format!(
            "journalctl --sync
            tail -n +{} {HOOK_MARKS} 2>/dev/null || :
            echo ==
            journalctl --quiet --after-cursor='{}' --output=json --output-fields=MESSAGE_ID,UNIT _PID=1",
            mark.hooks + 1,
            mark.cursor
        )
    }

    /// Reads what that printed.
    pub(crate) fn read(seen: &str, services: &[&str]) -> Result<Self> {
        let (hooks, journal) = seen.split_once("==\n").context("the output of the machine is incomplete")?;
        let hooks = hooks.lines().map(str::to_owned).collect();
        let mut happened = Self { hooks, transitions: transitions(journal, services)?, ..Self::default() };
        let mut down_since: BTreeMap<String, u64> = BTreeMap::new();
        for Transition { service, up, monotonic, .. } in &happened.transitions {
            if !up {
                happened.stops.push(service.clone());
                down_since.entry(service.clone()).or_insert(*monotonic);
                continue;
            }
            happened.starts.push(service.clone());
            if let Some(stopped) = down_since.remove(service) {
                let outage = Duration::from_micros(monotonic.saturating_sub(stopped));
                let sum = happened.outages.entry(service.clone()).or_insert(Some(Duration::ZERO));
                *sum = sum.map(|sum| sum + outage);
            }
        }
        happened.outages.extend(down_since.into_keys().map(|service| (service, None)));
        Ok(happened)
    }

    /// The order in which the services were started for the last time.
    pub fn restart_order(&self) -> Vec<&str> {
        let is_last = |(index, start): &(usize, &String)| !self.starts[index + 1..].contains(start);
        self.starts.iter().enumerate().filter(is_last).map(|(_, start)| start.as_str()).collect()
    }

    /// Writes down which hooks ran.
    pub fn hooks_in(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(f, "Hooks, in the order they ran:")?;
        self.hooks.iter().try_for_each(|hook| writeln!(f, "  {hook}"))
    }
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hooks_in(f)?;
        writeln!(f, "Services, in the order systemd started them last:")?;
        for service in self.restart_order() {
            let times = match self.starts.iter().filter(|start| *start == service).count() {
                1 => "once".to_owned(),
                starts => format!("{starts} times"),
            };
            writeln!(f, "  {service:<16} started {times}")?;
        }
        Ok(())
    }
}

/// Spans with times in milliseconds since 1970: those that have only begun, and those that have ended, too.
#[derive(Default)]
struct Spans {
    begun: BTreeMap<(SpanKind, String), u64>,
    ended: Vec<Span>,
}

impl Spans {
    fn begin(&mut self, kind: SpanKind, name: &str, time: u64) {
        self.begun.entry((kind, name.to_owned())).or_insert(time);
    }

    fn end(&mut self, kind: SpanKind, name: &str, time: u64, good: bool) {
        if let Some(begin) = self.begun.remove(&(kind, name.to_owned())) {
            self.ended.push(Span { kind, name: name.to_owned(), begin, end: Some(time), good });
        }
    }

    /// Ends all spans of a kind.
    fn end_all(&mut self, kind: SpanKind, time: u64, good: bool) {
        let names = self.begun.keys().filter(|(begun, _)| *begun == kind).map(|(_, name)| name.clone());
        names.collect::<Vec<_>>().iter().for_each(|name| self.end(kind, name, time, good));
    }

    /// All spans, with times since the first began.
    fn relative(self) -> Vec<Span> {
        let begun = self.begun.into_iter();
        let begun = begun.map(|((kind, name), begin)| Span { kind, name, begin, end: None, good: false });
        let mut spans: Vec<Span> = self.ended.into_iter().chain(begun).collect();
        let start = spans.iter().map(|span| span.begin).min().unwrap_or_default();
        for span in &mut spans {
            span.begin -= start;
            span.end = span.end.map(|end| end.saturating_sub(start));
        }
        spans.sort_by(|one, other| (one.begin, one.kind, &one.name).cmp(&(other.begin, other.kind, &other.name)));
        spans
    }
}

/// The spans of a run: steps, hooks and packages from the upgrader's log, outages from systemd's journal.
pub(crate) fn of(log: &str, transitions: &[Transition]) -> Vec<Span> {
    let mut spans = Spans::default();
    for line in log.lines() {
        let Some((time, what)) = line.split_once(' ') else { continue };
        let Some(time) = time.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok())
        else {
            continue;
        };
        if let Some(step) = what.strip_prefix("step ") {
            if let Some(step) = step.strip_suffix(" began") {
                // One that did not end has failed.
                spans.end_all(SpanKind::Step, time, false);
                spans.begin(SpanKind::Step, step, time);
            } else if let Some(step) = step.strip_suffix(" ended") {
                spans.end_all(SpanKind::MaintainerScript, time, true);
                spans.end(SpanKind::Step, step, time, true);
            }
        } else if let Some((_, hook)) = what.split_once(" hook ") {
            if let Some(hook) = hook.strip_suffix(" began") {
                spans.begin(SpanKind::Hook, hook, time);
            } else if let Some((hook, how)) = hook.split_once(' ') {
                spans.end(SpanKind::Hook, hook, time, !how.starts_with("failed"));
            }
        } else if let Some(said) = what.strip_prefix("apt-get: ") {
            let package = ["Setting up ", "Removing "].iter().find_map(|word| said.strip_prefix(word));
            if let Some(package) = package.and_then(|rest| rest.split(' ').next()) {
                spans.end_all(SpanKind::MaintainerScript, time, true);
                spans.begin(SpanKind::MaintainerScript, package, time);
            } else if said.starts_with("dpkg: error") {
                spans.end_all(SpanKind::MaintainerScript, time, false);
            }
        }
    }
    for Transition { service, up, time, .. } in transitions {
        if *up {
            spans.end(SpanKind::Outage, service, *time, true);
        } else {
            spans.begin(SpanKind::Outage, service, *time);
        }
    }
    spans.relative()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(message: &str, unit: &str, microseconds: u64) -> String {
        format!(
            r#"{{"MESSAGE_ID":"{message}","UNIT":"{unit}","__REALTIME_TIMESTAMP":"{microseconds}","__MONOTONIC_TIMESTAMP":"{microseconds}"}}"#
        )
    }

    #[test]
    fn order_and_outages_come_from_the_journal() {
        let journal = [
            entry(STOPPING, "b.service", 1_000_000),
            entry(STARTED, "b.service", 1_500_000),
            entry(STOPPING, "a.service", 2_000_000),
            entry(STARTED, "a.service", 2_250_000),
            entry(STOPPING, "b.service", 3_000_000),
            entry(STARTED, "b.service", 3_100_000),
            entry(STARTED, "other.service", 4_000_000),
            entry(STOPPING, "c.service", 4_500_000),
            r#"{"__REALTIME_TIMESTAMP":"5","__MONOTONIC_TIMESTAMP":"5"}"#.to_owned(),
        ]
        .join("\n");
        let happened = Events::read(&format!("pre-upgrade 10-a\n==\n{journal}"), &["a", "b", "c"]).unwrap();
        assert_eq!(happened.hooks, ["pre-upgrade 10-a"]);
        assert_eq!(happened.stops, ["b", "a", "b", "c"]);
        assert_eq!(happened.starts, ["b", "a", "b"]);
        assert_eq!(happened.restart_order(), ["a", "b"]);
        assert_eq!(happened.outages["b"], Some(Duration::from_millis(600)));
        assert_eq!(happened.outages["a"], Some(Duration::from_millis(250)));
        assert_eq!(happened.outages["c"], None, "it is still down");
    }

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
        let start = "2026-11-22T10:00:00Z".parse::<Timestamp>().unwrap().as_millisecond().unsigned_abs();
        let transition = |up, at| Transition { service: "s".to_owned(), up, time: start + at, ..Transition::default() };
        let spans = of(log, &[transition(false, 720), transition(true, 750)]);
        let spans: Vec<_> =
            spans.iter().map(|span| (span.kind, span.name.as_str(), span.begin, span.end, span.good)).collect();
        assert_eq!(
            spans,
            [
                (SpanKind::Step, "packages", 0, Some(300), true),
                (SpanKind::MaintainerScript, "a", 100, Some(200), true),
                (SpanKind::MaintainerScript, "b", 200, Some(300), true),
                (SpanKind::Hook, "10-x", 400, Some(500), false),
                (SpanKind::Step, "restart", 600, None, false),
                (SpanKind::Outage, "s", 620, Some(650), true),
            ]
        );
    }
}
