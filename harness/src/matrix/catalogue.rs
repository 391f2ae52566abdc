//! The defects as cells. Each defect must be caught.

use std::io::Write;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::answer::Answer;
use super::cell::Cell;
use super::defect;
use super::record::Record;
use super::state::State;
use crate::at_once::each;
use crate::data::one_line;

/// How many machines run at once.
const AT_ONCE: usize = 3;

/// Every defect as a cell, in the order of their names.
pub fn defects() -> Result<Vec<Cell>> {
    let cell = |defect: defect::Defect| Cell {
        scenario: "defects".to_owned(),
        guarantee: "A mistake of the vendor is found before it reaches a customer.".to_owned(),
        from: defect.file.from.clone(),
        to: defect.candidate.version.clone(),
        debian: defect.file.on,
        next_debian: None,
        has_database: false,
        remarks: Vec::new(),
        state_name: defect.name.clone(),
        state: State { prepare: defect.file.prepare.clone(), ..State::default() },
        fault: None,
        answer: Answer::default(),
        expect: defect.file.expect.clone(),
        chosen: defect.file.chosen,
        defect: Some(defect),
    };
    Ok(defect::all()?.into_iter().map(cell).collect())
}

/// Upgrades machines to defective releases, prints which check caught each defect, and counts. Fails if a defect escaped, or if something was
/// found in a control.
pub fn run(part: &str, out: &mut dyn Write) -> Result<()> {
    let mut cells = defects()?;
    cells.retain(|cell| cell.state_name.contains(part));
    ensure!(!cells.is_empty(), "no defect has {part:?} in its name");
    let (mut seeded, mut caught, mut false_alarms) = (0, 0, 0);
    each(cells, AT_ONCE, examine, |cell, ran, _| {
        let defect = cell.defect.as_ref().context("a cell without a defect")?;
        let is_control = defect.file.caught_by.is_empty();
        let (seconds, verdict) = match ran {
            Ok((record, verdict)) => (record.took.div_ceil(1000), verdict),
            Err(error) => (0, Err(vec![format!("it could not be run: {error:#}")])),
        };
        seeded += usize::from(!is_control);
        caught += usize::from(!is_control && verdict.is_ok());
        false_alarms += usize::from(is_control && verdict.is_err());
        let by = match &verdict {
            Ok(()) if is_control => "(control: nothing is wrong, and nothing was found)".to_owned(),
            Ok(()) => defect.file.caught_by.join("; "),
            Err(escaped) => format!("NOT CAUGHT: {}", escaped.join("; ")),
        };
        Ok(writeln!(out, "{:<34} {:<8} {seconds:>3} s  {}", defect.name, cell.debian, one_line(&by))?)
    })?;
    writeln!(out, "{caught} of {seeded} defects are caught")?;
    ensure!(false_alarms == 0, "something was found where nothing is wrong");
    ensure!(caught == seeded, "{} escaped", seeded - caught);
    Ok(())
}

/// Runs the cell of a defect, and says whether what was found is what there is to find.
pub fn examine(cell: &Cell) -> Result<(Record, Result<(), Vec<String>>)> {
    let defect = cell.defect.as_ref().ok_or_else(|| anyhow!("{} has no defect", cell.name()))?;
    let record = cell.run()?.record;
    record.save(&cell.kept_in())?;
    let verdict = defect.verdict(&record);
    Ok((record, verdict))
}
