//! Defects of releases are caught: one test for each defect. `make defects` runs all; `make test` ignores most.

use harness::matrix::catalogue::{defects, examine};
use harness::matrix::cell::Cell;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::from_args();
    let trial = |cell: Cell| {
        let chosen = cell.chosen;
        Trial::test(format!("{}::{}", cell.state_name, cell.debian), move || test(&cell)).with_ignored_flag(!chosen)
    };
    libtest_mimic::run(&arguments, defects()?.into_iter().map(trial).collect()).exit();
}

fn test(cell: &Cell) -> Result<(), Failed> {
    let (record, verdict) = examine(cell).map_err(|error| format!("{error:?}"))?;
    verdict.map_err(|escaped| {
        format!("{}\nIts logs: {}\nOnce more: {}", escaped.join("\n"), cell.kept_in().display(), record.again).into()
    })
}
