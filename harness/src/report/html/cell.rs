//! The details of one cell.

use maud::{Markup, html};

use super::timeline::timeline;
use super::{id, seconds, verdict};
use crate::report::{Cell, Log};

/// How many bytes of the logs of a cell the page shows. A page with hundreds of cells must still open quickly.
const LOGS: usize = 64 * 1024;

/// The details of a cell, folded.
pub(super) fn details(cell: &Cell) -> Markup {
    let (id, record) = (id(cell), &cell.record);
    let place = &record.place;
    html! {
        details data-verdict=(verdict(record)) {
            summary { (record.cell) " " b { (verdict(record)) } }
            article id=(id) aria-labelledby={ (id) "-title" } {
                header {
                    h3 id={ (id) "-title" } tabindex="-1" { (record.cell) }
                    p.verdict data-verdict=(verdict(record)) { (verdict(record)) }
                    button.close type="button" { "Close" }
                }
                dl.figures {
                    div { dt { "scenario" } dd { (place.scenario) } }
                    div { dt { "from → to" } dd { (place.from) " → " (place.to) } }
                    div { dt { "Debian" } dd { (place.debian) } }
                    div { dt { "state" } dd { (place.state) } }
                    div { dt { "fault" } dd { (place.fault) } }
                    div { dt { "answer" } dd { (place.answer) } }
                    div { dt { "exit code" } dd { @match record.exit { Some(exit) => (exit), None => "none" } } }
                    div { dt { "upgrade" } dd { (seconds(record.run)) } }
                    div { dt { "in all" } dd { (seconds(record.took)) } }
                }
                @if !record.failures.is_empty() {
                    ul.failed { @for failure in &record.failures { li { (failure) } } }
                }
                @for paragraph in &record.explanation { p.explanation { (paragraph) } }
                p.again {
                    code { (record.again) }
                    button.interactive type="button" data-copy=(record.again) { "Copy" }
                    output aria-live="polite" {}
                }
                @if let Some(difference) = &record.difference { (changed(difference)) }
                @if !record.timeline.is_empty() { h4 { "Timeline" } (timeline(record)) }
                h4 { "Screen" }
                (text("screen", "Screen", &html! { (record.screen) }))
                @if !record.checked.is_empty() {
                    h4 { "Checked" }
                    ul.checked { @for checked in &record.checked { li { (checked) } } }
                }
                @if !cell.logs.is_empty() { section.logs { h4 { "Logs" } (logs(cell)) } }
            }
        }
    }
}

/// A preformatted text. It may be wider than the page, so it can have the focus and be scrolled with the keyboard.
fn text(class: &str, label: &str, content: &Markup) -> Markup {
    html! { pre class=(class) role="region" aria-label=(label) tabindex="0" { (content) } }
}

/// The differences from the snapshot, as the lines of a unified diff.
fn changed(difference: &str) -> Markup {
    let lines = difference.split_inclusive('\n').map(|line| {
        html! {
            @if line.starts_with("+++") || line.starts_with("---") || line.starts_with("@@") { span.place { (line) } }
            @else if line.starts_with('+') { ins { (line) } }
            @else if line.starts_with('-') { del { (line) } }
            @else { (line) }
        }
    });
    html! {
        h4 { "Difference to the snapshot" }
        (text("difference", "Difference to the snapshot", &html! { @for line in lines { (line) } }))
    }
}

fn logs(cell: &Cell) -> Markup {
    html! {
        @for (log, limit) in cell.logs.iter().zip(limits(&cell.logs)) {
            details.log {
                summary { (log.name) " " span { (log.text.len().div_ceil(1024)) " KiB" } }
                @let (begin, left_out, end) = shortened(&log.text, limit);
                (text("log", &log.name, &html! {
                    (begin)
                    @if left_out > 0 {
                        b { "\n[" (left_out) " bytes are left out here; all of it is in " (cell.directory) "/" (log.name) "]\n" }
                    }
                    (end)
                }))
            }
        }
    }
}

/// How many bytes of each log are shown. Small logs are shown in full; large logs share the rest of the limit.
fn limits(logs: &[Log]) -> Vec<usize> {
    let mut lengths: Vec<usize> = logs.iter().map(|log| log.text.len()).collect();
    lengths.sort_unstable();
    let mut left = LOGS;
    let mut limit = 0;
    for (index, length) in lengths.iter().enumerate() {
        limit = left / (lengths.len() - index);
        left -= limit.min(*length);
    }
    logs.iter().map(|log| limit.min(log.text.len())).collect()
}

/// Shortens a text to a limit: its beginning, the number of omitted bytes, and its end.
fn shortened(text: &str, limit: usize) -> (&str, usize, &str) {
    if text.len() <= limit {
        return (text, 0, "");
    }
    let at_most = |at: usize| (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let begin = &text[..at_most(limit / 2)];
    let end = (text.len() - limit / 2..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    (begin, end - begin.len(), &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(length: usize) -> Log {
        Log { name: "dpkg.log".to_owned(), text: "x".repeat(length) }
    }

    #[test]
    fn large_logs_share_what_small_ones_leave() {
        assert_eq!(limits(&[log(100_000), log(1_000), log(100_000)]), [32_268, 1_000, 32_268]);
        assert_eq!(limits(&[log(10), log(20)]), [10, 20]);
        assert_eq!(limits(&[log(100_000)]), [LOGS]);
    }

    #[test]
    fn a_long_text_is_shortened_in_its_middle() {
        assert_eq!(shortened("abc", 3), ("abc", 0, ""));
        assert_eq!(shortened("abcdefgh", 4), ("ab", 4, "gh"));
        assert_eq!(shortened("aéééé", 4), ("a", 6, "é"), "never in the middle of a character");
    }

    #[test]
    fn lines_of_a_difference_are_told_apart() {
        let markup = changed("--- a\n+++ b\n@@ -1 +1 @@\n same\n-old\n+new\n").into_string();
        for line in ["<del>-old\n</del>", "<ins>+new\n</ins>", "<span class=\"place\">--- a\n</span>"] {
            assert!(markup.contains(line), "{markup}");
        }
        assert_eq!(markup.matches("<ins>").count() + markup.matches("<del>").count(), 2);
    }
}
