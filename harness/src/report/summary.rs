//! The summary of the results, as JSON.

use anyhow::Result;
use serde::Serialize;

use super::{INTERRUPTED, Report};

/// The results of the matrix. `docs/matrix-summary.md` describes it.
#[derive(Serialize)]
struct Summary<'a> {
    schema: u32,
    total: usize,
    passed: usize,
    failed: usize,
    cells: Vec<Outcome<'a>>,
}

#[derive(Serialize)]
struct Outcome<'a> {
    cell: &'a str,
    passed: bool,
    failures: Vec<&'a str>,
    took: Option<u64>,
}

/// The summary as JSON.
pub(super) fn document(report: &Report) -> Result<String> {
    let (total, failed) = (report.total(), report.failed());
    let recorded = report.cells.iter().map(|cell| Outcome {
        cell: &cell.record.cell,
        passed: cell.record.passed(),
        failures: cell.record.failures.iter().map(String::as_str).collect(),
        took: Some(cell.record.took),
    });
    let interrupted =
        report.interrupted.iter().map(|cell| Outcome { cell, passed: false, failures: vec![INTERRUPTED], took: None });
    let summary =
        Summary { schema: 1, total, passed: total - failed, failed, cells: recorded.chain(interrupted).collect() };
    Ok(serde_json::to_string_pretty(&summary)? + "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::tests::report;

    #[test]
    fn it_has_every_cell_and_its_verdict() {
        let summary: Value = serde_json::from_str(&document(&report()).unwrap()).unwrap();
        let cells = json!([
            { "cell": "upgrade::bookworm", "passed": true, "failures": [], "took": 41250 },
            { "cell": "upgrade::trixie", "passed": false, "failures": ["asterisk is down."], "took": 41250 },
            { "cell": "rollback--trixie", "passed": false, "failures": [INTERRUPTED], "took": null },
        ]);
        assert_eq!(summary, json!({ "schema": 1, "total": 3, "passed": 1, "failed": 2, "cells": cells }));
    }
}
