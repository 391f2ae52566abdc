//! Measures the rollback from the next Debian release.

use anyhow::Result;

use super::sheet::Sheet;
use crate::faults::crash::next_debian::rolled_back;
use crate::machines::machine::Storage;

/// The limit where rollback data are hard links, in seconds.
const LIMIT: f64 = 5.0;

/// Measures the rollback of a real upgrade to the next Debian that fails when it restarts the services.
pub(super) fn measure(sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title("Rollback from trixie to bookworm once everything was upgraded, on the host's filesystem")?;
    let rollback = rolled_back(Storage::Host)?;
    sheet.limited("without the restart of services", rollback.rollback.as_secs_f64(), LIMIT, "s")
}
