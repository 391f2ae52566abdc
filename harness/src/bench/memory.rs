//! Measures the memory of a run.

use anyhow::{Context as _, Result, ensure};

use super::RUNS;
use super::exchange::Exchange;
use super::sheet::{Sheet, median};
use crate::at_once::both;
use crate::machines::image::Debian;
use crate::machines::machine::Storage;

/// The limit for the program that does the work, in megabytes.
const LIMIT: f64 = 15.0;

/// Watches every process of a program for as long as there is any, and prints the largest peak in kB. The kernel keeps the peak
/// itself (`VmHWM` of proc(5)), so that only one in the last two milliseconds could be missed. What the program starts runs
/// another program and is not counted.
const WATCH: &str = include_str!("peak.pl");

pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title("The peak of resident memory of real-xivo-upgrade in a run")?;
    let mut exchange = Exchange::new(debian, Storage::Layers)?;
    let mut peaks = Vec::new();
    for _ in 0..RUNS {
        exchange.publish_next(0)?;
        let watch = ["timeout", "120", "perl", "-e", WATCH, "/usr/bin/real-xivo-upgrade"];
        let world = &exchange.world;
        let (peak, upgrade) = both(|| world.machine.command(&watch).run(), || world.upgrade(&["--yes"]).exits(0));
        upgrade?;
        let peak = peak?;
        let kilo: f64 = peak.screen.parse().with_context(|| format!("the watcher said {peak}"))?;
        ensure!(kilo > 0.0, "the watcher saw nothing");
        peaks.push(kilo * 1024.0 / 1e6);
    }
    sheet.limited(&format!("median of {RUNS} runs"), median(peaks.clone()), LIMIT, "MB")?;
    sheet.limited("largest", peaks.into_iter().fold(0.0, f64::max), LIMIT, "MB")
}
