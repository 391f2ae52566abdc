//! Compares a cell of the matrix with other programs that test upgrades.

mod autopkgtest;
mod piuparts;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::RUNS;
use super::cell::{passed, plain};
use super::sheet::Sheet;
use crate::machines::image::Debian;
use crate::machines::machine::Storage;
use crate::machines::product_machine;
use crate::machines::world::World;
use crate::matrix::cell::Cell;
use crate::packages::deb;
use crate::packages::release::Release;

/// A cell takes at most this many times what piuparts takes.
const LIMIT: f64 = 1.0 / 3.0;

/// Where the packages of the new release are on a peer's machine.
const NEW: &str = "/root/new";

/// How long a peer may take: one makes its chroot from the mirror.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Compares a cell with other programs that test upgrades, on the same pair of releases.
///
/// piuparts installs, upgrades, removes and purges in a chroot, autopkgtest installs and upgrades in a container of podman's; no service
/// may start in either. A cell boots a machine, upgrades it with services running, and looks at all of it.
pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    let cell = plain(debian)?;
    passed(&cell)?;
    beside_piuparts(debian, &cell, sheet)?;
    beside_autopkgtest(debian, &cell, sheet)
}

fn beside_piuparts(debian: Debian, cell: &Cell, sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title("A cell beside piuparts, XiVO 1.2.1 to 1.2.2")?;
    let world = prepare(Storage::Layers, debian, "piuparts", &piuparts::PACKAGES)?;
    piuparts::prepare(&world, debian)?;
    sheet.pairs(["piuparts", "a cell"], &pairs(cell, || piuparts::run(&world, debian))?, Some(LIMIT))
}

fn beside_autopkgtest(debian: Debian, cell: &Cell, sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title("A cell beside autopkgtest with podman, XiVO 1.2.1 to 1.2.2")?;
    // In the engine's layers podman would copy its image for each run.
    let world = prepare(Storage::Host, debian, "autopkgtest", &autopkgtest::PACKAGES)?;
    autopkgtest::prepare(&world)?;
    sheet.pairs(["autopkgtest", "a cell"], &pairs(cell, || autopkgtest::run(&world))?, None)
}

/// What both take, in turns.
fn pairs(cell: &Cell, theirs: impl Fn() -> Result<Duration>) -> Result<Vec<[Duration; 2]>> {
    (0..RUNS).map(|_| Ok([theirs()?, passed(cell)?])).collect()
}

/// A machine with a peer's packages, the old release in a repository, and the packages of the new one as files.
fn prepare(disk: Storage, debian: Debian, peer: &str, packages: &[&str]) -> Result<World> {
    let mut world = product_machine::with_debian_packages(disk, debian, peer, packages, "")?;
    world.publish(&Release::named("1.2.1")?.packages)?;
    for package in &Release::named("1.2.2")?.packages {
        world.machine.write(&format!("{NEW}/{}", package.file_name()), &deb::build(package)?.bytes, 0o644)?;
    }
    Ok(world)
}

/// Runs a peer, and says how long that took. It has done what it is for if it says `wanted`.
fn timed(world: &World, command: &str, wanted: &str) -> Result<Duration> {
    let start = Instant::now();
    let tested = world.machine.command(&["sh", "-c", &format!("{command} 2>&1")]).timeout(TIMEOUT).run()?;
    ensure!(tested.screen.contains(wanted), "it did not do what it is for: {tested}");
    Ok(start.elapsed())
}
