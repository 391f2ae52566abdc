//! The subcommands of the matrix: list, explain, run, shell.

use std::io::{BufRead as _, Write};

use anyhow::{Context as _, Result, ensure};
use upgrader::model::step::Step;

use super::cell::Cell;
use super::scenario::matrix;
use crate::faults::fault::steps;
use crate::machines::machine::Machine;

/// Lists the cells that have a text in their names.
pub fn list(part: &str, chosen: bool, out: &mut dyn Write) -> Result<()> {
    let cells = matrix()?;
    let mut names: Vec<String> = cells.iter().filter(|cell| cell.chosen || !chosen).map(Cell::name).collect();
    names.retain(|name| name.contains(part));
    ensure!(!names.is_empty(), "no cell of {} has {part:?} in its name", cells.len());
    names.iter().try_for_each(|name| Ok(writeln!(out, "{name}")?))
}

/// Says in words what a cell does.
pub fn explain(name: &str, out: &mut dyn Write) -> Result<()> {
    let cell = find(name)?;
    writeln!(out, "{}\n", cell.name())?;
    for paragraph in cell.explanation() {
        writeln!(out, "{paragraph}")?;
    }
    Ok(())
}

/// Runs a cell, prints its record, and fails if the cell did. With `keep`, its machine runs until Enter is pressed.
pub fn run(name: &str, keep: bool, out: &mut dyn Write) -> Result<()> {
    let cell = find(name)?;
    explain(&cell.name(), out)?;
    let ran = cell.run_then(&mut |machine| if keep { wait(machine) } else { Ok(()) })?;
    let (_, seen) = ran.document.split_once("\n\n").unwrap_or_default();
    writeln!(out, "\n{}\n", seen.trim_end())?;
    for checked in &ran.record.checked {
        writeln!(out, "seen: {checked}")?;
    }
    for failure in &ran.record.failures {
        writeln!(out, "FAILED: {failure}")?;
    }
    ran.record.save(&cell.kept_in())?;
    writeln!(out, "\nIts logs: {}", cell.kept_in().display())?;
    ensure!(ran.record.passed(), "{} failed", cell.name());
    Ok(())
}

/// Opens a shell on a cell's machine in the middle of a run.
pub fn shell(name: &str, at: Option<Step>, after: bool, out: &mut dyn Write) -> Result<()> {
    let cell = find(name)?;
    explain(&cell.name(), out)?;
    let at = match at {
        Some(step) if after => {
            let later = || steps().into_iter().skip_while(|other| *other <= step);
            Some(later().find(|step| super::run::can_stop_at(*step)).context("nothing comes after that step")?)
        }
        at => at,
    };
    cell.stop_at(at, &mut |machine| {
        let run = at.map_or_else(|| "not yet started".to_owned(), |step| format!("stopped in the step {step}"));
        writeln!(out, "\nThe run is {run}. When you leave, the machine is gone.")?;
        machine.shell()
    })
}

/// Waits for Enter.
fn wait(machine: &Machine) -> Result<()> {
    let name = machine.name()?;
    let mut out = std::io::stdout();
    writeln!(out, "\nThe machine is there until you press Enter. A shell on it: docker exec -it {name} bash")?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// Finds the cell with this name, or the only one that has it in its name.
fn find(name: &str) -> Result<Cell> {
    let mut found: Vec<Cell> = matrix()?.into_iter().filter(|cell| cell.name().contains(name)).collect();
    if let Some(exact) = found.iter().position(|cell| cell.name() == name) {
        return Ok(found.swap_remove(exact));
    }
    let names = || found.iter().map(Cell::name).collect::<Vec<_>>().join("\n  ");
    ensure!(found.len() < 2, "several cells have {name:?} in their names:\n  {}", names());
    found.pop().with_context(|| format!("no cell has {name:?} in its name: `harness list` shows them all"))
}
