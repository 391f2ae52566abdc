//! Measures the outage of the services.

use anyhow::Result;

use super::exchange::Exchange;
use super::sheet::Sheet;
use crate::machines::image::Debian;
use crate::machines::machine::Storage;
use crate::packages::repository_fault::{Affected, RepositoryFault, ServerFault};

/// In an upgrade the services are away at most this many times as long as in a bare restart.
const LIMIT: f64 = 1.2;

/// How often it is measured: what is compared is short, and what else a host does weighs more than anywhere else.
const RUNS: usize = 9;

/// A slow mirror, in bytes a second.
const SLOW: u32 = 50_000;

/// What the slow mirror has to bring beside the small packages, in bytes: four seconds.
const BALLAST: usize = 200_000;

pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    let mut exchange = Exchange::new(debian, Storage::default())?;
    for (mirror, rate, ballast) in [("", None, 0), (" from a mirror with 50 kB/s", Some(SLOW), BALLAST)] {
        sheet
            .title(&format!("Outage of all services in an upgrade{mirror}, beside a bare ordered systemctl restart"))?;
        exchange.world.clear_fault()?;
        if let Some(rate) = rate {
            exchange.world.inject(RepositoryFault::new(ServerFault::Slow(rate), Affected::Packages))?;
        }
        let mut pairs = Vec::new();
        for _ in 0..RUNS {
            let before = exchange.outage(|exchange| exchange.bare_restart())?;
            exchange.publish_next(ballast)?;
            let ours = exchange.outage(|exchange| exchange.upgrade().map(drop))?;
            // One before and one after: what else the host does in between weighs on both sides.
            let after = exchange.outage(|exchange| exchange.bare_restart())?;
            pairs.push([(before + after) / 2, ours]);
        }
        sheet.pairs(["bare restart", "upgrade"], &pairs, Some(LIMIT))?;
    }
    Ok(())
}
