//! What a cell of the matrix costs.

use std::sync::Mutex;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{RUNS, Sheet, median};
use crate::machines::image::Debian;
use crate::machines::product_machine;
use crate::matrix::cell::Cell;
use crate::matrix::scenario::matrix;
use crate::packages::shipped::SERVICES;

/// The plainest cell: a machine at 1.2.1 as it was installed, and nothing goes wrong. `@` is the release of Debian.
const PLAIN: &str = "answers::1.2.1-to-1.2.2::yes::@";

/// One in so many cells of the matrix is run to see how many this host runs in a minute.
const SAMPLE: usize = 4;

/// How many cells run at once for each core: they wait for their disks and for services about half of the time.
const CELLS_PER_CORE: usize = 2;

/// Measures what a cell costs beside the bare apt commands, and how many cells a minute this host runs.
pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title(&format!("A cell of the matrix on {debian}, from nothing to its record"))?;
    let plain = plain(debian)?;
    passed(&plain)?;
    let pairs = (0..RUNS).map(|_| Ok([bare(debian)?, passed(&plain)?])).collect::<Result<Vec<_>>>()?;
    let middle = |of: usize| median(pairs.iter().map(|pair| pair[of]).collect(), Duration::cmp).as_secs_f64();
    sheet.figure("the bare apt commands and restarts on such a machine", middle(0), "s")?;
    sheet.figure("the whole cell: boot, run, every check, logs", middle(1), "s")?;
    sheet.figure("overhead of a cell", middle(1) - middle(0), "s")?;

    let mut cells = matrix()?;
    cells.retain(|cell| cell.debian == debian && cell.next_debian.is_none());
    let cells: Vec<_> = cells.into_iter().step_by(SAMPLE).collect();
    let (count, start) = (cells.len(), Instant::now());
    let at_once = available_parallelism()?.get() * CELLS_PER_CORE;
    let waiting = Mutex::new(cells);
    let next = || waiting.lock().ok()?.pop();
    std::thread::scope(|scope| {
        let work = || std::iter::from_fn(next).try_for_each(|cell| passed(&cell).map(drop));
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a cell panicked"))?)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "there are hundreds of cells")]
    let a_minute = count as f64 * 60.0 / start.elapsed().as_secs_f64();
    sheet.figure(
        &format!("{count} cells, one in {SAMPLE} of the matrix, {at_once} at once"),
        a_minute,
        "cells a minute",
    )
}

/// The plainest cell on a release of Debian.
pub(super) fn plain(debian: Debian) -> Result<Cell> {
    let name = PLAIN.replace('@', &debian.to_string());
    matrix()?.into_iter().find(|cell| cell.name() == name).with_context(|| format!("there is no cell {name}"))
}

/// Runs a cell, which has to pass, and says how long that took.
pub(super) fn passed(cell: &Cell) -> Result<Duration> {
    let start = Instant::now();
    let ran = cell.run()?;
    ran.record.keep(&cell.kept_in())?;
    ensure!(ran.record.passed(), "{} failed: {}", cell.name(), ran.record.failures.join("\n"));
    Ok(start.elapsed())
}

/// How long an admin's commands take who does without the upgrader.
fn bare(debian: Debian) -> Result<Duration> {
    let world = product_machine::upgradable(debian)?;
    let start = Instant::now();
    world.machine.sh(&format!(
        "apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq -y dist-upgrade 2>&1; systemctl restart {}",
        SERVICES.join(" ")
    ))?;
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plainest_cell_is_in_the_matrix_on_every_debian() {
        for debian in Debian::ALL {
            assert_eq!(plain(debian).unwrap().debian, debian);
        }
    }
}
