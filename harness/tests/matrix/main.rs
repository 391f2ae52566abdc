//! The matrix: one test for each cell. Those that are not chosen count as ignored; `make matrix` runs all.

mod snapshot;

use harness::machines::transcript::without_times;
use harness::matrix::cell::Cell;
use harness::matrix::scenario::matrix;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::from_args();
    let cells = matrix()?;
    let known: Vec<_> = cells.iter().map(snapshot::path).collect();
    let mut trials: Vec<Trial> = cells
        .into_iter()
        .map(|cell| {
            let chosen = cell.chosen;
            Trial::test(cell.name(), move || test(&cell)).with_ignored_flag(!chosen)
        })
        .collect();
    trials.push(Trial::test("no_stale_snapshot", move || snapshot::none_is_stale(&known)));
    libtest_mimic::run(&arguments, trials).exit();
}

fn test(cell: &Cell) -> Result<(), Failed> {
    let mut ran = cell.run().map_err(|error| format!("{error:?}"))?;
    ran.record.difference = snapshot::difference(cell, &without_times(&ran.document));
    if let Some(difference) = &ran.record.difference {
        ran.record.failures.push(format!("it does not look as before:\n{difference}"));
    }
    ran.record.save(&cell.kept_in())?;
    if ran.record.passed() {
        return Ok(());
    }
    let (failures, kept_in) = (ran.record.failures.join("\n"), cell.kept_in());
    Err(format!("{failures}\nIts logs: {}\nOnce more: {}", kept_in.display(), ran.record.again).into())
}
