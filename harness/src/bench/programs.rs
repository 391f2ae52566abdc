//! How small and how quick to start the programs are.

use std::ffi::OsStr;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::Sheet;
use crate::command;
use crate::packages::binaries;

/// How often a program is started to see how long that takes.
const STARTS: u32 = 50;

/// The limit for the program that does the work, in megabytes.
const LIMIT: f64 = 3.0;

pub(super) fn measure(sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title("The upgrader's programs")?;
    let directory = binaries::build()?;
    for program in ["xivo-upgrade", "real-xivo-upgrade"] {
        let path = directory.join(program);
        let size = path.metadata().with_context(|| path.display().to_string())?.len();
        let start = Instant::now();
        for _ in 0..STARTS {
            command::silently(&path, [OsStr::new("--version")])?;
        }
        let each = (start.elapsed() / STARTS).as_secs_f64() * 1e3;
        sheet.limited(program, mega(size), LIMIT, "MB")?;
        sheet.figure(&format!("{program} --version (mean of {STARTS})"), each, "ms")?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
