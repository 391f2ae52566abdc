//! The report as one HTML page.

mod cell;
mod grid;
mod timeline;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use super::{Cell, INTERRUPTED, Report};
use crate::matrix::record::{Place, Record};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The characters that are escaped in the fragment of a URL.
const FRAGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// The report as one self-contained HTML file. Without JavaScript it is a table and a list.
pub(super) fn page(report: &Report) -> String {
    let (total, failed) = (report.total(), report.failed());
    let verdict = if failed == 0 { "all passed".to_owned() } else { format!("{failed} failed") };
    let took: u64 = report.cells.iter().map(|cell| cell.record.took).sum();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // Logs may contain anything: only the script of the page runs, and nothing is loaded.
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Upgrade matrix: " (verdict) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header.top {
                    h1 { "Upgrade matrix" }
                    p.verdict data-verdict=(if failed == 0 { "passed" } else { "failed" }) { (verdict) }
                    dl.figures {
                        div { dt { "cells" } dd { (total) } }
                        div { dt { "passed" } dd { (total - failed) } }
                        div { dt { "failed" } dd { (failed) } }
                        div { dt { "time of all" } dd { (seconds(took)) } }
                        div { dt { "ended" } dd { time datetime=(report.ended) {
                            (report.ended.strftime("%Y-%m-%d %H:%M UTC"))
                        } } }
                    }
                }
                main {
                    (failures(report))
                    (filters(report))
                    (grid::table(report))
                    section.list aria-labelledby="list" {
                        h2 #list { "Cells" }
                        @for cell in &report.cells { (cell::details(cell)) }
                    }
                }
                dialog #window {}
                script type="module" { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// The content security policy: only the style and the script of the page.
fn policy() -> String {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    format!("default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'", hash(STYLE), hash(SCRIPT))
}

/// The failed cells, at the top of the page.
fn failures(report: &Report) -> Markup {
    let failed: Vec<&Cell> = report.cells.iter().filter(|cell| !cell.record.passed()).collect();
    html! {
        @if report.failed() > 0 {
            section.failures aria-labelledby="failures" {
                h2 #failures { "Failed" }
                ul {
                    @for cell in failed {
                        li { a href=(address(cell)) { (cell.record.cell) } " " span { (first_failure(&cell.record)) } }
                    }
                    @for name in &report.interrupted { li { b { (name) } " " span { (INTERRUPTED) } } }
                }
            }
        }
    }
}

fn first_failure(record: &Record) -> String {
    match record.failures.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

/// The form that filters the matrix. The script shows it, because it needs the script.
fn filters(report: &Report) -> Markup {
    let select = |name: &str, label: &str, value: fn(&Place) -> &str| {
        let values: BTreeSet<&str> = report.cells.iter().map(|cell| value(&cell.record.place)).collect();
        html! {
            label { span { (label) } select name=(name) {
                option value="" { "all" }
                @for value in values { option value=(value) { (value) } }
            } }
        }
    };
    html! {
        form #filter role="search" aria-label="Cells" hidden {
            label { span { "Name" } input name="text" type="search" placeholder="words of the name" autocomplete="off"; }
            (select("scenario", "Scenario", |place| &place.scenario))
            (select("debian", "Debian", |place| &place.debian))
            (select("state", "State", |place| &place.state))
            (select("fault", "Fault", |place| &place.fault))
            label.check { input name="failed" type="checkbox"; span { "only failures" } }
            button type="reset" { "Clear" }
            output aria-live="polite" {}
        }
    }
}

/// The HTML id of a cell.
fn id(cell: &Cell) -> String {
    format!("cell-{}", cell.directory)
}

/// The link to a cell on the page.
fn address(cell: &Cell) -> String {
    format!("#{}", utf8_percent_encode(&id(cell), FRAGMENT))
}

/// The result of a cell as one word.
fn verdict(record: &Record) -> &'static str {
    if record.passed() { "passed" } else { "failed" }
}

/// A duration in milliseconds, as a readable text.
#[expect(clippy::cast_precision_loss, reason = "nothing takes that long")]
fn seconds(milliseconds: u64) -> String {
    match milliseconds {
        0..10_000 => format!("{:.2} s", milliseconds as f64 / 1e3),
        10_000..100_000 => format!("{:.1} s", milliseconds as f64 / 1e3),
        _ => {
            let seconds = milliseconds / 1000;
            format!("{} min {:02} s", seconds / 60, seconds % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Log;
    use crate::report::tests::report;

    const EVIL: &str = "</pre></script><img src=x onerror=alert(1)>\"'&";

    #[test]
    fn whatever_a_cell_says_is_text() {
        let mut report = report();
        let plain = page(&report);
        let cell = &mut report.cells[1];
        let record = &mut cell.record;
        for text in [&mut record.cell, &mut record.screen, &mut record.again, &mut cell.directory] {
            text.push_str(EVIL);
        }
        let Place { scenario, from, to, debian, state, fault, answer } = &mut record.place;
        for text in [scenario, from, to, debian, state, fault, answer] {
            text.push_str(EVIL);
        }
        for texts in [&mut record.explanation, &mut record.failures, &mut record.checked] {
            texts.push(EVIL.to_owned());
        }
        record.difference = Some(format!("-{EVIL}\n+{EVIL}\n {EVIL}\n"));
        cell.logs = vec![Log { name: EVIL.to_owned(), text: EVIL.repeat(3000) }];
        report.interrupted = vec![EVIL.to_owned()];
        let page = page(&report);
        let count = |page: &str, text: &str| page.matches(text).count();
        assert!(!page.contains("<img"), "an element came out of a text");
        assert_eq!(count(&page, "</script"), count(&plain, "</script"));
        assert!(count(&page, "&lt;img src=x onerror=alert(1)&gt;&quot;'&amp;") > 20, "the text is there");
    }

    #[test]
    fn nothing_is_fetched() {
        let page = page(&report());
        for text in ["src=", "@import", "url(", "http://", "https://", "<link"] {
            assert!(!page.contains(text), "{text}");
        }
    }

    #[test]
    fn counts_and_failures_are_told() {
        let page = page(&report());
        for text in [
            "<dt>cells</dt><dd>3</dd>",
            "<dt>passed</dt><dd>1</dd>",
            "<dt>failed</dt><dd>2</dd>",
            "<a href=\"#cell-upgrade--trixie\">upgrade::trixie</a> <span>asterisk is down.</span>",
            "<b>rollback--trixie</b> <span>It left no record: it was interrupted.</span>",
            "1970-01-01 00:00 UTC",
        ] {
            assert!(page.contains(text), "{text} is not in\n{page}");
        }
    }

    #[test]
    fn times_are_short() {
        let times = [0, 4, 9_999, 41_250, 125_400].map(seconds);
        assert_eq!(times, ["0.00 s", "0.00 s", "10.00 s", "41.2 s", "2 min 05 s"]);
    }
}
