//! The machine whose power is cut, and the references without a power cut.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::machines::database;
use crate::machines::disk::{Disk, Filesystem};
use crate::machines::engine::Engine;
use crate::machines::image::{Debian, Image};
use crate::machines::machine::{Machine, Storage};
use crate::machines::product_machine::{debian_packages, installed_image, upgrader};
use crate::machines::world::World;
use crate::observe::inventory::Inventory;
use crate::packages::package::Package;
use crate::packages::release::Release;
use crate::packages::service::add_service;
use crate::packages::shipped::{SERVICES, definition};

/// The releases between which the machine is upgraded.
const RELEASES: [&str; 2] = ["1.1", "1.2.3"];

/// How many files the generated package has.
const FILES: usize = 300;

/// What its maintainer script makes of its files without syncing anything: byte code, which is renamed, and caches and a configuration, which
/// are written in place.
const POSTINST: &str = r#"#!/usr/bin/perl
sub save { open my $file, '>', $_[0] or die "$_[0]: $!\n"; print $file $_[1]; close $file }
mkdir '/usr/lib/xivo-generated';
mkdir '/etc/xivo';
my $all = '';
for my $source (sort glob '/usr/share/xivo-generated/*') {
    open my $file, '<', $source or die "$source: $!\n";
    my $text = join '', <$file>;
    my ($name) = $source =~ m{([^/]+)$};
    my $compiled = "/usr/lib/xivo-generated/$name.compiled";
    save("$compiled.new", $text =~ tr/a-z/n-za-m/r);
    rename "$compiled.new", $compiled or die "$compiled: $!\n";
    save("/usr/lib/xivo-generated/$name.cache", uc $text);
    $all .= $text if $name =~ /^1/;
}
save('/etc/xivo/generated.conf', $all);
"#;

/// What a hook writes, without syncing it either.
const HOOK: &str = "#!/bin/sh
set -eu
mkdir -p /var/lib/xivo-hook
for number in $(seq 40); do
    echo \"$number of $UPGRADE_VERSION_CANDIDATE\" >/var/lib/xivo-hook/$number
done
";

/// Removes what no program of the machine needs: translations, documentation, headers, and the compiler of PostgreSQL's queries. All files of a machine
/// are read each time.
const SMALLER: &str = "rm -rf /usr/share/doc/* /usr/share/man/* /usr/share/locale/* /usr/lib/*/libLLVM* /usr/lib/*/libz3.so* \
    /usr/lib/postgresql/*/lib/bitcode /usr/share/i18n/* /usr/lib/*/perl/*/CORE";

/// Services that differ from the others in their name only. Without them, an upgrade is shorter.
const UNUSED: [&str; 2] = ["dahdi", "xivo-provd"];

/// The service that has data of its own.
const STORE: &str = "xivo-store";

/// Its program loads a file at start, and fails if the file is not complete. It saves the file at stop: a new file, fsync(2), rename(2).
const STORE_PROGRAM: &str = include_str!("../../../products/store/program.pl");

/// Writes the file when the package is installed.
const STORE_POSTINST: &str = include_str!("../../../products/store/postinst.sh");

/// Where packages, their scripts and hooks write files, below the root of the disk.
const WRITTEN: [&str; 4] = ["usr", "etc/xivo", "var/lib/xivo-hook", "var/lib/dpkg/info"];

/// A machine on a disk, and what it has to be in the end.
pub(super) struct Fixture {
    pub(super) engine: Engine,
    filesystem: Filesystem,
    /// The machine with the old release.
    pub(super) image: Image,
    candidate: Vec<Package>,
    /// What the machine was.
    pub(super) old: Inventory,
    /// What an undisturbed upgrade makes of it.
    pub(super) upgraded: Inventory,
    /// How many files of 0 bytes the upgraded machine has.
    pub(super) empty_files: usize,
}

impl Fixture {
    /// Makes the machine, and upgrades it once without disturbing it.
    pub(super) fn make(debian: Debian, filesystem: Filesystem) -> Result<Self> {
        let engine = Engine::connect()?;
        // A machine of a killed process keeps its disk busy.
        engine.sweep()?;
        let [old, new] = [release(RELEASES[0])?, release(RELEASES[1])?];
        let upgrader = published(&new)?;
        let [old, candidate] = [old, new].map(|release| [release.packages, vec![upgrader.clone()]].concat());
        let prepare = format!("{}\n{SMALLER}", database::PREPARE);
        let base = debian_packages(&engine, debian, "power", &["postgresql"], &prepare)?;
        let image = installed_image(&engine, &format!("{debian}-power-old"), &base, &old, "xivo-generated")?;
        let mut fixture = Self {
            engine,
            filesystem,
            image,
            candidate,
            old: Inventory::default(),
            upgraded: Inventory::default(),
            empty_files: 0,
        };
        let world = fixture.world()?;
        fixture.old = fixture.after_boot(&world)?;
        ensure!(fixture.old.of_kind("database").count() == 1, "the machine has no database");
        let transcript = world.upgrade(&["--yes"]).run()?;
        ensure!(transcript.exit == 0, "{transcript}");
        world.machine.sh("sync")?;
        fixture.empty_files = empty_files(&world.machine.disk().context("the machine has no disk")?.path())?;
        fixture.upgraded = fixture.after_boot(&world)?;
        ensure!(fixture.old != fixture.upgraded, "an upgrade changes nothing");
        Ok(fixture)
    }

    /// What a machine is once it has booted from what its disk has now.
    fn after_boot(&self, world: &World) -> Result<Inventory> {
        let disk = world.machine.disk().context("the machine has no disk")?;
        let machine = Machine::boot_disk(Disk::of_capture(&disk.capture()?)?, &self.engine, &self.image)?;
        Inventory::of_disk(&machine)
    }

    /// A machine with the old release, for which the new one is published. All that it has is on its disk.
    pub(super) fn world(&self) -> Result<World> {
        self.world_on(Storage::Disk(self.filesystem))
    }

    /// The same on a disk whose writes can be recorded.
    pub(super) fn served_world(&self) -> Result<World> {
        self.world_on(Storage::ServedDisk(self.filesystem))
    }

    fn world_on(&self, storage: Storage) -> Result<World> {
        let mut world = World::boot_image(storage, &self.engine, &self.image)?;
        world.publish(&self.candidate)?;
        world.machine.sh("apt-get -qq update; sync")?;
        Ok(world)
    }
}

/// Counts the files of 0 bytes among those that packages, their scripts and hooks write. The disk is mounted at `root`.
pub(super) fn empty_files(root: &Path) -> Result<usize> {
    let mut directories: Vec<PathBuf> = WRITTEN.iter().map(|path| root.join(path)).collect();
    let mut empty = 0;
    while let Some(directory) = directories.pop() {
        if !directory.exists() {
            continue;
        }
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                directories.push(entry.path());
            }
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            empty += usize::from(metadata.is_file() && metadata.len() == 0 && !is_hidden);
        }
    }
    Ok(empty)
}

/// A release for such machines: its database is Debian's PostgreSQL, and it has two packages more.
fn release(version: &str) -> Result<Release> {
    let mut release = database::release(version)?;
    release.packages.retain(|package| !UNUSED.contains(&package.name.as_str()));
    let metapackage = release.package_mut("xivo")?;
    if let Some(depends) = metapackage.control.get_mut("Depends") {
        // Debian's PostgreSQL has another version.
        let is_there = |one: &&str| !one.starts_with("postgresql ") && !UNUSED.iter().any(|name| one.starts_with(name));
        *depends = depends.split(", ").filter(is_there).collect::<Vec<_>>().join(", ");
    }
    release.packages.extend([generated(version), store(version)]);
    Ok(release)
}

/// A package whose maintainer script writes files that nobody syncs.
fn generated(version: &str) -> Package {
    let mut generated = Package::new("xivo-generated", version);
    for number in 0..FILES {
        let content = format!("generated file {number} of {version}\n").repeat(20 + number % 50);
        generated = generated.file(&format!("/usr/share/xivo-generated/{number}"), content, 0o644);
    }
    generated.script("postinst", POSTINST).control("Depends", format!("xivo, {STORE}, xivo-upgrade, postgresql"))
}

/// A package with a service that has data of its own.
fn store(version: &str) -> Package {
    let postinst = format!("#!/bin/sh\nset -e\n{}", STORE_POSTINST.replace("@NAME@", STORE));
    let mut store = Package::new(STORE, version).script("postinst", postinst);
    store = store.file(&format!("/usr/libexec/{STORE}"), STORE_PROGRAM, 0o755);
    add_service(&mut store);
    store
}

/// The upgrader as it is published with a release for such machines.
fn published(release: &Release) -> Result<Package> {
    let hook = upgrader()?.file("/usr/share/xivo-upgrade/post-upgrade.d/50-write", HOOK, 0o755);
    let mut services: Vec<&str> = SERVICES.into_iter().filter(|name| !UNUSED.contains(name)).collect();
    services.insert(1, STORE);
    definition::edited(database::upgrader(hook, release)?, |product| {
        let table = product.get_mut("services").and_then(|services| services.as_table_mut());
        table.context("product.toml has no services")?.insert("order".to_owned(), services.into());
        Ok(())
    })
}
