//! The cell of the matrix that the benchmarks compare with other programs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::machines::image::Debian;
use crate::matrix::cell::Cell;
use crate::matrix::scenario::matrix;

/// The plainest cell: a machine at 1.2.1 as it was installed, and no fault. `@` is the release of Debian.
const PLAIN: &str = "answers::1.2.1-to-1.2.2::yes::@";

/// The plainest cell on a release of Debian.
pub(super) fn plain(debian: Debian) -> Result<Cell> {
    let name = PLAIN.replace('@', &debian.to_string());
    matrix()?.into_iter().find(|cell| cell.name() == name).with_context(|| format!("there is no cell {name}"))
}

/// Runs a cell, which has to pass, and returns how long that took.
pub(super) fn passed(cell: &Cell) -> Result<Duration> {
    let start = Instant::now();
    let ran = cell.run()?;
    ran.record.save(&cell.kept_in())?;
    ensure!(ran.record.passed(), "{} failed: {}", cell.name(), ran.record.failures.join("\n"));
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
