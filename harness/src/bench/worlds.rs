//! What a world costs around a run.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{RUNS, Sheet, median};
use crate::machines::image::Debian;
use crate::machines::product_machine;
use crate::observe::observation::{Happened, Mark, SystemState};
use crate::packages::shipped::SERVICES;

/// The parts of one world's life.
struct Life {
    /// From nothing to nothing: boot, old release, upgrade, collected, gone.
    whole: Duration,
    /// The upgrade alone.
    upgrade: Duration,
}

pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    // The first one may have to install the old release for all the others.
    live(debian)?;
    let lives = (0..RUNS).map(|_| live(debian)).collect::<Result<Vec<_>>>()?;
    let of = |part: fn(&Life) -> Duration| median(lives.iter().map(part).collect(), Duration::cmp).as_secs_f64();
    let (whole, upgrade) = (of(|life| life.whole), of(|life| life.upgrade));
    sheet.title(&format!("A warm world on {debian}, XiVO 1.2.1 to 1.2.2, eight services (medians of {RUNS})"))?;
    sheet.figure("the whole world", whole, "s")?;
    sheet.figure("the upgrade in it", upgrade, "s")
}

fn live(debian: Debian) -> Result<Life> {
    let born = Instant::now();
    let world = product_machine::upgradable(debian)?;
    let mark = Mark::set(&world.machine)?;
    let start = Instant::now();
    let transcript = world.upgrade(&["--yes"]).run()?;
    let upgrade = start.elapsed();
    ensure!(transcript.exit == 0, "{transcript}");
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.services.values().all(|service| service.version == "1.2.2"), "{state:?}");
    Happened::since(&mark, &world.machine, &SERVICES)?;
    drop(world);
    Ok(Life { whole: born.elapsed(), upgrade })
}
