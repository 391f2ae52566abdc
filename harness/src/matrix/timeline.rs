//! What happened when.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::record::{Kind, Span};
use crate::observe::observation::Turn;

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

/// What happened when: steps, hooks and packages as the upgrader's log tells it, outages as systemd does.
pub(crate) fn of(log: &str, turns: &[Turn]) -> Vec<Span> {
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
    for Turn { service, up, time, .. } in turns {
        if *up {
            spans.end(Kind::Outage, service, *time, true);
        } else {
            spans.begin(Kind::Outage, service, *time);
        }
    }
    spans.relative()
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
        let start = "2026-11-22T10:00:00Z".parse::<Timestamp>().unwrap().as_millisecond();
        let turn = |up, at| Turn { service: "s".to_owned(), up, time: start + at, ..Turn::default() };
        let spans = of(log, &[turn(false, 720), turn(true, 750)]);
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
