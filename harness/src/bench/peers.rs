use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::matrix::{passed, plain};
use super::{Sheet, median};
use crate::appliance;
use crate::deb;
use crate::engine::Engine;
use crate::image::Debian;
use crate::release::Release;
use crate::world::World;

/// How often each is measured, in turns.
const RUNS: usize = 3;

/// A warm cell takes at most this many times what piuparts takes.
const LIMIT: f64 = 1.0 / 3.0;

/// Where the packages of the new release are on piuparts's machine.
const NEW: &str = "/root/new";

/// The chroot that piuparts unpacks each time.
const BASE: &str = "/root/base.tar.gz";

/// piuparts with what makes it as quick as it can be here: no check by adequate, and of its tests the one of the upgrade. Its
/// chroots cannot be in memory: there are no devices below /tmp.
const PIUPARTS: &str = "piuparts --tmpdir=/var/tmp --no-adequate --no-install-purge-test --distribution=";

/// How long piuparts may take: it makes its chroot from the mirror.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Compares a cell with piuparts on the same pair of releases, warm and cold.
///
/// piuparts installs, upgrades, removes and purges in a chroot in which no service may start; a cell boots a machine, upgrades it with
/// services running, and looks at all of it.
pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title(&format!("A cell beside piuparts on {debian}, XiVO 1.2.1 to 1.2.2"))?;
    let world = prepare(debian)?;
    let cell = plain(debian)?;
    passed(&cell)?;
    let cold = cold(&world, debian)?;
    let pairs = (0..RUNS).map(|_| Ok([warm(&world, debian)?, passed(&cell)?])).collect::<Result<Vec<_>>>()?;
    sheet.pairs(["piuparts", "a cell"], &pairs, Some(LIMIT))?;

    // From the machine's image on: the old release has to be installed first. Theirs has to make its chroot.
    let start = Instant::now();
    let engine = Engine::connect()?;
    appliance::forget(&engine, debian, "1.2.1")?;
    passed(&cell)?;
    let ours = start.elapsed().as_secs_f64();
    let theirs = cold + median(pairs.iter().map(|pair| pair[0]).collect(), Duration::cmp);
    sheet.compared(
        "cold: a cell that installs the old release first, piuparts that makes its chroot",
        ours,
        theirs.as_secs_f64(),
        "s",
    )
}

/// A machine with piuparts, the old release in a repository, and the packages of the new one as files.
fn prepare(debian: Debian) -> Result<World> {
    let mut world = appliance::with_debian_packages(debian, "piuparts", &["piuparts", "debootstrap"], "")?;
    world.publish(&Release::named("1.2.1")?.packages)?;
    for package in &Release::named("1.2.2")?.packages {
        world.machine.write(&format!("{NEW}/{}", package.file_name()), &deb::build(package)?.bytes, 0o644)?;
    }
    Ok(world)
}

/// The mirror that the machine's own sources name.
fn mirror(world: &World) -> Result<String> {
    let sources = world.machine.sh("cat /etc/apt/debian-sources/*")?;
    let mirror = sources.split_whitespace().find(|field| field.starts_with("http"));
    mirror.map(str::to_owned).context("the machine's sources name no mirror")
}

/// Has piuparts make its chroot, and says how long that took.
fn cold(world: &World, debian: Debian) -> Result<Duration> {
    let mirror = mirror(world)?;
    let options = format!("--mirror='{mirror} main' --save={BASE} --no-upgrade-test {NEW}/xivo-sounds_*.deb");
    piuparts(world, debian, &options, "PASS: All tests")
}

fn warm(world: &World, debian: Debian) -> Result<Duration> {
    let (mirror, url) = (mirror(world)?, world.url()?);
    let options = format!(
        "--mirror='{mirror} main' --basetgz={BASE} --extra-repo='deb [trusted=yes] {url} stable main' {NEW}/*.deb"
    );
    piuparts(world, debian, &options, "PASS: Installation, upgrade and purging tests")
}

/// Runs it, and says how long that took.
fn piuparts(world: &World, debian: Debian, options: &str, wanted: &str) -> Result<Duration> {
    let command = format!("{PIUPARTS}{debian} {options} 2>&1");
    let start = Instant::now();
    let tested = world.machine.command(&["sh", "-c", &command]).patience(PATIENCE).run()?;
    ensure!(tested.screen.contains(wanted), "piuparts did not do what it is for: {tested}");
    Ok(start.elapsed())
}
