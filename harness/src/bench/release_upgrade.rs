//! Measures a real upgrade to the next Debian.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::RUNS;
use super::sheet::Sheet;
use crate::faults::crash::next_debian::{TIMEOUT, VERSION, world};
use crate::machines::disk::{Capture, Disk, Filesystem};
use crate::machines::engine::Engine;
use crate::machines::image::Debian;
use crate::machines::machine::{Machine, Storage};
use crate::packages::shipped::definition::PRODUCT;

/// What is measured: how a flush of the disk's cache is called, how much longer it takes than this host needs for it, and the limit for the
/// upgrader as a multiple of bare apt.
const DISKS: [(&str, Duration, f64); 2] = [
    ("the disk of this host", Duration::ZERO, 0.95),
    ("a disk that takes 2 ms for a flush", Duration::from_millis(2), 0.60),
];

/// The bare commands.
const BARE: &str = "export DEBIAN_FRONTEND=noninteractive
apt-get -q update && apt-get -qy --option=Dpkg::Options::=--force-confnew dist-upgrade && systemctl restart postgresql nginx ssh cron";

/// Measures on clones of one machine with ext4, whose packages are downloaded. There is no settling time.
pub(super) fn measure(sheet: &mut Sheet<'_>) -> Result<()> {
    let engine = Engine::connect()?;
    let world = world(Storage::Disk(Filesystem::Ext4))?;
    let prepare = format!(
        "sed -i 's/^settle = .*/settle = \"0s\"/' {PRODUCT}
        apt-get -qq update; apt-get -qqy --download-only dist-upgrade; sync"
    );
    world.machine.command(&["sh", "-euc", &prepare]).timeout(TIMEOUT).exits(0)?;
    let before = world.machine.disk().context("the machine has no disk")?.capture()?;
    world.machine.cut_power()?;
    for (disk, flush, limit) in DISKS {
        sheet.title(&format!("A real upgrade from bookworm to trixie, rollback data included, on ext4 and {disk}"))?;
        let mut pairs = Vec::new();
        for run in 0..RUNS {
            let mut pair = [Duration::ZERO; 2];
            for which in [run % 2, 1 - run % 2] {
                pair[which] = upgrade(which == 1, &engine, &before, flush)?;
            }
            pairs.push(pair);
        }
        sheet.pairs(["bare apt", "upgrader"], &pairs, Some(limit))?;
    }
    Ok(())
}

/// Upgrades a clone, and says how long that took.
fn upgrade(ours: bool, engine: &Engine, before: &Capture, flush: Duration) -> Result<Duration> {
    let disk = Disk::of_capture_served(before)?;
    disk.served()?.delay_flushes(flush);
    let machine = Machine::boot_disk(disk, engine, &Debian::Bookworm.machine())?;
    let command = if ours { machine.command(&["xivo-upgrade", "--yes"]) } else { machine.command(&["sh", "-c", BARE]) };
    let start = Instant::now();
    let transcript = command.timeout(TIMEOUT).run()?;
    let took = start.elapsed();
    ensure!(matches!(transcript.exit, 0 | 6), "{transcript}");
    ensure!(machine.sh(VERSION)? == "trixie\n", "{transcript}");
    Ok(took)
}
