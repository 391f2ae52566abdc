//! The matrix as a table.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::{address, seconds, verdict};
use crate::matrix::answer::Answer;
use crate::matrix::record::NONE;
use crate::matrix::state::FRESH;
use crate::report::{Cell, Report};

/// The key of a row: the old and the new release, the state, the fault and the answer.
type Row<'a> = [&'a str; 5];

/// The cells of a scenario, by row and Debian release. Usually one each.
type Rows<'a> = BTreeMap<Row<'a>, BTreeMap<&'a str, Vec<&'a Cell>>>;

/// The matrix as a table: a row for each key, a column for each Debian release.
pub(super) fn table(report: &Report) -> Markup {
    let debians: BTreeSet<&str> = report.cells.iter().map(|cell| cell.record.place.debian.as_str()).collect();
    let mut scenarios: BTreeMap<&str, Rows> = BTreeMap::new();
    for cell in &report.cells {
        let place = &cell.record.place;
        let row = [&place.from, &place.to, &place.state, &place.fault, &place.answer].map(String::as_str);
        let rows = scenarios.entry(&place.scenario).or_default();
        rows.entry(row).or_default().entry(&place.debian).or_default().push(cell);
    }
    html! {
        div.scroll role="region" aria-labelledby="matrix-caption" tabindex="0" {
            table #matrix {
                caption #matrix-caption { "What became of each cell" span.interactive { ". Arrow keys go from cell to cell, Enter opens one." } }
                thead { tr {
                    th scope="col" { "From → to" }
                    th scope="col" { "State" }
                    th scope="col" { "Fault" }
                    th scope="col" { "Answer" }
                    @for debian in &debians { th scope="col" data-debian=(debian) { (debian) } }
                } }
                @for (scenario, rows) in &scenarios { (group(scenario, rows, &debians)) }
            }
        }
    }
}

/// The rows of a scenario.
fn group(scenario: &str, rows: &Rows, debians: &BTreeSet<&str>) -> Markup {
    let cells: Vec<&Cell> = rows.values().flat_map(BTreeMap::values).flatten().copied().collect();
    let failed = cells.iter().filter(|cell| !cell.record.passed()).count();
    html! {
        tbody data-scenario=(scenario) {
            tr.group {
                th scope="rowgroup" colspan="4" { (scenario) }
                td colspan=(debians.len()) {
                    (cells.len()) (if cells.len() == 1 { " cell" } else { " cells" })
                    @if failed > 0 { ", " b { (failed) " failed" } }
                }
            }
            @for ([from, to, state, fault, answer], fields) in rows {
                tr data-state=(state) data-fault=(fault) {
                    th scope="row" { (from) " → " (to) }
                    td.usual[*state == FRESH] { (state) }
                    td.usual[*fault == NONE] { (fault) }
                    td.usual[*answer == Answer::default().key()] { (answer) }
                    @for debian in debians {
                        td.field data-debian=(debian) {
                            @for cell in fields.get(debian).into_iter().flatten() { (link(cell)) }
                            @if !fields.contains_key(debian) { span.absent { "–" span.unseen { "no such cell" } } }
                        }
                    }
                }
            }
        }
    }
}

fn link(cell: &Cell) -> Markup {
    let record = &cell.record;
    html! {
        a href=(address(cell)) data-verdict=(verdict(record)) data-name=(record.cell) {
            b { (verdict(record)) } " " span { (seconds(record.took)) }
            span.unseen { ", " (record.cell) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{cell, report};

    #[test]
    fn a_place_without_a_cell_is_empty() {
        let mut report = report();
        report.cells.push(cell("rollback", "bookworm", &[]));
        let table = table(&report).into_string();
        assert_eq!(table.matches("<span class=\"absent\">").count(), 1);
        let row = table.split("<tr data-").nth(1).unwrap();
        let (bookworm, trixie) = row.split_once("data-debian=\"trixie\"").unwrap();
        assert!(bookworm.contains("#cell-rollback--bookworm") && trixie.contains("no such cell"), "{row}");
    }

    #[test]
    fn cells_at_the_same_place_share_a_field() {
        let mut report = report();
        let mut twin = cell("upgrade", "bookworm", &["asterisk is down."]);
        twin.directory.push_str("-again");
        report.cells.push(twin);
        let table = table(&report).into_string();
        assert_eq!(table.matches("<tr data-").count(), 1);
        assert_eq!(table.matches("<a href").count(), 3);
    }
}
