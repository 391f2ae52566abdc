//! Measures the size of the upgrader's programs.

use anyhow::{Context as _, Result};

use super::sheet::Sheet;
use crate::packages::binaries;

/// The limit for each program, in megabytes.
const LIMIT: f64 = 3.0;

pub(super) fn measure(sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title("The upgrader's programs")?;
    let directory = binaries::build()?;
    for program in ["xivo-upgrade", "real-xivo-upgrade"] {
        let path = directory.join(program);
        let size = path.metadata().with_context(|| path.display().to_string())?.len();
        sheet.limited(program, mega(size), LIMIT, "MB")?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
