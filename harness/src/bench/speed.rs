//! How long a whole run takes.

use anyhow::Result;

use super::exchange::Exchange;
use super::{RUNS, Sheet};
use crate::machines::image::Debian;
use crate::machines::machine::Storage;

/// A whole run, with all that is needed to go back, takes at most this many times what the bare commands take.
const LIMIT: f64 = 1.15;

pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    // In the engine's layers another name for a file is a copy of it: what that costs is said, and is not what a machine in the field pays.
    for (disk, place, limit) in [
        (Storage::Host, "/usr and /var on the host's filesystem", Some(LIMIT)),
        (Storage::Layers, "everything in the engine's layers", None),
    ] {
        sheet.title(&format!(
            "Speed on {debian}, {place}: a whole run beside apt-get update, apt-get dist-upgrade, systemctl restart, in one container"
        ))?;
        // The bare commands do not look whether services stay up; waiting for that is a choice of the product's, not a cost.
        sheet.line("without the settling time, after which services are looked at again")?;
        let mut exchange = Exchange::new(debian, disk)?;
        exchange.publish_next(0)?;
        exchange.bare_upgrade()?;
        let mut pairs = Vec::new();
        for run in 0..RUNS {
            let mut one = |bare: bool| {
                exchange.publish_next(0)?;
                if bare { exchange.bare_upgrade() } else { exchange.upgrade() }
            };
            // In turns: what has become slower meanwhile is nobody's advantage.
            pairs.push(if run % 2 == 0 {
                [one(true)?, one(false)?]
            } else {
                let ours = one(false)?;
                [one(true)?, ours]
            });
        }
        sheet.pairs(["bare apt", "upgrader"], &pairs, limit)?;
    }
    Ok(())
}
