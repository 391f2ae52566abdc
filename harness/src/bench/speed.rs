//! Measures the duration of a whole run.

use anyhow::Result;

use super::RUNS;
use super::exchange::Exchange;
use super::sheet::Sheet;
use crate::machines::image::Debian;
use crate::machines::machine::Storage;

/// The limit for a whole run, rollback data included, as a multiple of what the bare commands take.
const LIMIT: f64 = 1.10;

/// Measures on the host's filesystem: in the engine's layers a hard link copies the file, which no machine in the field pays for.
/// There is no settling time: how long a product waits to see whether services stay up is its choice, not a cost.
pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title(
        "Speed of a whole run beside apt-get update, apt-get dist-upgrade, systemctl restart, in one container",
    )?;
    let mut exchange = Exchange::new(debian, Storage::Host)?;
    exchange.publish_next(0)?;
    exchange.bare_upgrade()?;
    let mut pairs = Vec::new();
    for run in 0..RUNS {
        let mut pair = [std::time::Duration::ZERO; 2];
        // Each goes first every other time, so that a host that becomes slower favours neither.
        for which in [run % 2, 1 - run % 2] {
            exchange.publish_next(0)?;
            pair[which] = if which == 0 { exchange.bare_upgrade()? } else { exchange.upgrade()? };
        }
        pairs.push(pair);
    }
    sheet.pairs(["bare apt", "upgrader"], &pairs, Some(LIMIT))
}
