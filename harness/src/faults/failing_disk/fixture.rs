//! The machine whose disk fails, and the references without a failure.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::at_once::cached;
use crate::machines::disk::{Capture, Disk, Filesystem};
use crate::machines::engine::Engine;
use crate::machines::image::{Debian, Image};
use crate::machines::machine::{Machine, Storage};
use crate::machines::product_machine::{debian_packages, installed_image, upgrader};
use crate::machines::world::World;
use crate::observe::inventory::{Inventory, Section};
use crate::packages::package::Package;
use crate::packages::release::Release;
use crate::packages::{binaries, deb};

/// The releases between which the machine is upgraded.
const RELEASES: [&str; 2] = ["1.1", "1.2.3"];

/// How many files the package has that fills the disk, and how many bytes each.
const FILES: usize = 60;
const FILE_SIZE: usize = 64 * 1024;

/// What its maintainer script writes besides.
const POSTINST: &str = "#!/bin/sh
set -e
mkdir -p /usr/lib/xivo-bulk /etc/xivo
for source in /usr/share/xivo-bulk/*; do tr a-z A-Z <$source >/usr/lib/xivo-bulk/${source##*/}; done
head -c 1000 /usr/share/xivo-bulk/1 >/etc/xivo/bulk.conf
";

/// What a hook writes. No reference has it: a rollback does not remove what hooks have written.
const HOOK: &str = "#!/bin/sh
set -eu
head -c 400000 /usr/bin/perl >/var/cache/$UPGRADE_PHASE
sync /var/cache/$UPGRADE_PHASE
";

/// A machine on a disk, and what it has to be in the end.
pub(super) struct Fixture {
    pub(super) engine: Engine,
    /// The machine with the old release.
    pub(super) image: Image,
    candidate: Vec<Package>,
    pub(super) references: References,
}

/// What the machine has to be in the end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct References {
    /// What the machine was.
    pub(super) old: Inventory,
    /// What an undisturbed upgrade makes of it.
    pub(super) upgraded: Inventory,
}

impl Fixture {
    /// Makes the machine, and upgrades it once without disturbing it, unless its references are known already.
    pub(super) fn make() -> Result<Self> {
        let engine = Engine::connect()?;
        let hooks = "/usr/share/xivo-upgrade";
        let upgrader = upgrader()?.file(&format!("{hooks}/pre-upgrade.d/50-write"), HOOK, 0o755).file(
            &format!("{hooks}/post-upgrade.d/50-write"),
            HOOK,
            0o755,
        );
        let old: Vec<Package> = with_bulk(RELEASES[0])?.into_iter().chain([upgrader.clone()]).collect();
        let candidate: Vec<Package> = with_bulk(RELEASES[1])?.into_iter().chain([upgrader]).collect();
        let debian = Debian::Bookworm;
        let base = debian_packages(&engine, debian, "power", &["attr"], ":")?;
        let image = installed_image(&engine, &format!("{debian}-failing-disk-old"), &base, &old, "xivo-bulk")?;
        let mut fixture = Self { engine, image, candidate, references: References::default() };
        fixture.references = cached(&fixture.path()?, || fixture.upgrade_undisturbed())?;
        Ok(fixture)
    }

    /// The file with the references of these packages.
    fn path(&self) -> Result<PathBuf> {
        let debs = self.candidate.iter().map(|package| Ok(deb::build(package)?.bytes)).collect::<Result<Vec<_>>>()?;
        let listing = Inventory::script(&[Section::Files]);
        let others = [self.image.tag.as_bytes(), listing.as_bytes()];
        let key = Image::of("references", debs.iter().map(AsRef::as_ref).chain(others));
        Ok(binaries::target().join(format!("failing-disks/references/{}.json", key.tag)))
    }

    fn upgrade_undisturbed(&self) -> Result<References> {
        let world = self.world()?;
        let old = self.after_boot(&world)?;
        world.upgrade(&["--yes"]).exits(0)?;
        world.machine.sh("sync")?;
        let upgraded = self.after_boot(&world)?;
        ensure!(old != upgraded, "an upgrade changes nothing");
        Ok(References { old, upgraded })
    }

    /// What a machine is once it has booted from what its disk has now.
    fn after_boot(&self, world: &World) -> Result<Inventory> {
        let disk = world.machine.disk().context("the machine has no disk")?;
        Inventory::collect(&self.boot(&disk.capture()?)?, &[Section::Files])
    }

    /// Boots a machine from a captured disk.
    pub(super) fn boot(&self, capture: &Capture) -> Result<Machine> {
        Machine::boot_disk(Disk::of_capture(capture)?, &self.engine, &self.image)
    }

    /// A machine with the old release, for which the new one is published, on a disk that can fail. As on a machine that Debian's installer has
    /// set up, the filesystem becomes read-only when it is damaged.
    pub(super) fn world(&self) -> Result<World> {
        let mut world = World::boot_image(Storage::ServedDisk(Filesystem::Ext4), &self.engine, &self.image)?;
        world.publish(&self.candidate)?;
        world.machine.sh("apt-get -qq update; sync")?;
        world.machine.disk().context("the machine has no disk")?.remount("errors=remount-ro")?;
        Ok(world)
    }
}

/// The packages of a release, and one that needs some megabytes.
fn with_bulk(version: &str) -> Result<Vec<Package>> {
    let mut packages = Release::named(version)?.packages;
    let mut bulk = Package::new("xivo-bulk", version);
    for number in 0..FILES {
        let line = format!("file {number} of {version}\n");
        let content = line.repeat(FILE_SIZE / line.len());
        bulk = bulk.file(&format!("/usr/share/xivo-bulk/{number}"), content, 0o644);
    }
    packages.push(bulk.script("postinst", POSTINST).control("Depends", "xivo, xivo-upgrade"));
    Ok(packages)
}
