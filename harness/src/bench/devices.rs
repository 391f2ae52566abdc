//! Measures the hook for backup proxies with many devices.

use anyhow::Result;

use super::sheet::Sheet;
use crate::machines::exchange::{change_devices, upgradable};
use crate::machines::image::Debian;

/// How many devices there are.
const DEVICES: usize = 5000;

/// How long it may take to give all of them another proxy, in seconds.
const LIMIT: f64 = 60.0;

pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title(&format!("The hook for backup proxies with {DEVICES} devices"))?;
    let took = change_devices(&upgradable(debian)?.machine, DEVICES)?.map(|took| took.as_secs_f64());
    let turns = ["each gets its proxy", "each has it already", "each loses it", "none has one"];
    turns.into_iter().zip(took).try_for_each(|(turn, took)| sheet.limited(turn, took, LIMIT, "s"))
}
