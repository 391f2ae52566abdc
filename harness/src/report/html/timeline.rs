//! The timeline of a cell, as bars.

use maud::{Markup, html};

use super::seconds;
use crate::matrix::record::Record;
use crate::observe::timeline::{Span, SpanKind};

/// The maximum number of ticks of a timeline.
const TICKS: u64 = 8;

/// The shortest bar is one such part of the timeline, so that it can be seen.
const SHORTEST: u64 = 400;

/// The timeline as a table; the last column has the bars.
pub(super) fn timeline(record: &Record) -> Markup {
    let ends = record.timeline.iter().map(|span| span.end.unwrap_or(span.begin));
    let total = ends.chain([record.run, 1]).max().unwrap_or(1);
    let ticks = ticks(total);
    html! {
        div.wide role="region" aria-label="Timeline" tabindex="0" { table.timeline {
            caption.unseen { "What happened when, in seconds since the upgrader was started" }
            thead { tr {
                th scope="col" { "What" }
                th scope="col" { "Begins" }
                th scope="col" { "Takes" }
                td { svg aria-hidden="true" {
                    @for tick in &ticks { text x=(percent(*tick, total)) y="12" { (tick_label(*tick)) } }
                } }
            } }
            @for (kind, name) in [
                (SpanKind::Step, "Steps"),
                (SpanKind::Hook, "Hooks"),
                (SpanKind::MaintainerScript, "Maintainer scripts"),
                (SpanKind::Outage, "Services out of service"),
            ] {
                @let lanes = lanes(&record.timeline, kind);
                @if !lanes.is_empty() {
                    tbody {
                        tr.group { th scope="rowgroup" colspan="3" { (name) } td {} }
                        @for lane in lanes { (row(&lane, total, &ticks)) }
                    }
                }
            }
        } }
    }
}

/// The spans of a kind, grouped by name, in the order of their first begin.
fn lanes(timeline: &[Span], kind: SpanKind) -> Vec<Vec<&Span>> {
    let mut spans: Vec<&Span> = timeline.iter().filter(|span| span.kind == kind).collect();
    spans.sort_by_key(|span| span.begin);
    let mut lanes: Vec<Vec<&Span>> = Vec::new();
    for span in spans {
        match lanes.iter_mut().find(|lane| lane[0].name == span.name) {
            Some(lane) => lane.push(span),
            None => lanes.push(vec![span]),
        }
    }
    lanes
}

fn row(lane: &[&Span], total: u64, ticks: &[u64]) -> Markup {
    let each = |text: fn(&Span) -> String| lane.iter().map(|span| text(span)).collect::<Vec<_>>().join(", ");
    html! {
        tr {
            th scope="row" { (lane[0].name) @if lane.iter().any(|span| !span.good) { " " b.bad { "failed" } } }
            td { (each(|span| seconds(span.begin))) }
            td { (each(|span| span.end.map_or_else(|| "never ended".to_owned(), |end| seconds(end.saturating_sub(span.begin))))) }
            td { svg aria-hidden="true" {
                @for tick in ticks {
                    @let x = percent(*tick, total);
                    line x1=(x) x2=(x) y1="0" y2="100%" {}
                }
                @for span in lane { (bar(span, total)) }
            } }
        }
    }
}

fn bar(span: &Span, total: u64) -> Markup {
    let length = span.end.unwrap_or(total).saturating_sub(span.begin);
    let kind = match span.kind {
        SpanKind::Step => "step",
        SpanKind::Hook => "hook",
        SpanKind::MaintainerScript => "script",
        SpanKind::Outage => "outage",
    };
    let class = if span.good && span.end.is_some() { kind } else { "bad" };
    html! {
        rect class=(class) x=(percent(span.begin, total)) y="3" height="10" rx="1.5"
            width=(percent(length.max(total / SHORTEST), total)) {}
    }
}

#[expect(clippy::cast_precision_loss, reason = "nothing takes that long")]
fn percent(part: u64, total: u64) -> String {
    format!("{}%", (part * 10_000 / total) as f64 / 100.0)
}

/// Evenly spaced ticks, in milliseconds.
fn ticks(total: u64) -> Vec<u64> {
    let steps = (1..).map(|power| 10_u64.pow(power)).flat_map(|power| [power, power * 2, power * 5]);
    let step = steps.into_iter().find(|step| total / step < TICKS).unwrap_or(total);
    (0..=total / step).map(|tick| tick * step).collect()
}

#[expect(clippy::cast_precision_loss, reason = "nothing takes that long")]
fn tick_label(tick: u64) -> String {
    format!("{} s", tick as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(kind: SpanKind, name: &str, begin: u64, end: Option<u64>) -> Span {
        Span { kind, name: name.to_owned(), begin, end, good: true }
    }

    #[test]
    fn ticks_are_even_and_few() {
        assert_eq!(ticks(9_310), [0, 2_000, 4_000, 6_000, 8_000]);
        assert_eq!(ticks(1), [0]);
        assert_eq!(ticks(70), [0, 10, 20, 30, 40, 50, 60, 70]);
        assert_eq!(ticks(600_000).len(), 7);
        assert_eq!(tick_label(1_500), "1.5 s");
    }

    #[test]
    fn what_has_the_same_name_is_in_one_lane() {
        let timeline = [
            span(SpanKind::Outage, "nginx", 700, Some(750)),
            span(SpanKind::Outage, "asterisk", 100, Some(200)),
            span(SpanKind::Outage, "nginx", 50, None),
            span(SpanKind::Step, "nginx", 0, Some(10)),
        ];
        let lanes = lanes(&timeline, SpanKind::Outage);
        assert_eq!(lanes, [vec![&timeline[2], &timeline[0]], vec![&timeline[1]]]);
        let row = row(&lanes[0], 1_000, &[]).into_string();
        assert!(row.contains("<td>0.05 s, 0.70 s</td><td>never ended, 0.05 s</td>"), "{row}");
        assert!(row.contains("class=\"bad\" x=\"5%\""), "{row}");
        assert!(row.contains("class=\"outage\" x=\"70%\""), "{row}");
    }
}
