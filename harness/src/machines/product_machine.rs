//! Machines with an old release installed and a new one published.

use anyhow::Result;

use crate::machines::database;
use crate::machines::engine::Engine;
use crate::machines::image::{Debian, Image};
use crate::machines::machine::{Machine, Storage, from_debian};
use crate::machines::world::World;
use crate::packages::deb;
use crate::packages::package::Package;
use crate::packages::release::Release;
use crate::packages::shipped::{Product, XIVO, definition};

/// The file to which each hook of the tests adds a line: phase, name, versions.
pub const HOOK_MARKS: &str = "/var/log/hook-marks";

/// The version of the upgrader that a machine has before it updates itself.
pub const OLD_UPGRADER: &str = "0.0.9";

/// The hooks of the tests, deliberately not in the order in which they run.
const HOOKS: [(&str, &str); 4] = [
    ("post-upgrade", "20-second"),
    ("pre-upgrade", "20-second"),
    ("post-upgrade", "10-first.sh"),
    ("pre-upgrade", "10-first"),
];

/// The number of hooks of the tests' upgraders.
pub const HOOK_COUNT: usize = HOOKS.len();

/// A machine in the field: an exchange that was installed with an old release and the upgrader of that time.
///
/// The release is installed once, and the machine's disk is saved as an image that is named after its packages. The upgrader is
/// installed each time.
pub fn at_release(debian: Debian, release: &str, upgrader: &Package) -> Result<World> {
    at_release_on(Storage::wanted()?, &XIVO, debian, release, upgrader)
}

/// The same with another product and storage.
pub fn at_release_on(
    disk: Storage,
    product: &Product,
    debian: Debian,
    release: &str,
    upgrader: &Package,
) -> Result<World> {
    let engine = Engine::connect()?;
    engine.sweep()?;
    let release = Release::of(product, release)?;
    let ready = *upgrader == upgrader_of(product)?;
    let image = installed(&engine, &debian.machine(), &debian.to_string(), &release, ready.then_some(upgrader))?;
    let mut world = World::boot_image(disk, &engine, &image)?;
    world.publish(release.packages.iter().chain([upgrader]))?;
    if !ready {
        world.install(&[&upgrader.name])?;
    }
    Ok(world)
}

/// A machine at 1.2.1 with one upgrader, for which 1.2.2 is published with another.
pub fn upgradable_with(debian: Debian, installed: &Package, published: &Package) -> Result<World> {
    let mut world = at_release(debian, "1.2.1", installed)?;
    world.publish(Release::named("1.2.2")?.packages.iter().chain([published]))?;
    Ok(world)
}

/// A machine at 1.2.1 with today's upgrader, for which 1.2.2 is published.
pub fn upgradable(debian: Debian) -> Result<World> {
    let upgrader = upgrader()?;
    upgradable_with(debian, &upgrader, &upgrader)
}

/// The same with an old upgrader ([`old_upgrader`]), for which today's is published.
pub fn self_updating(debian: Debian) -> Result<World> {
    upgradable_with(debian, &old_upgrader(&XIVO)?, &upgrader()?)
}

/// The same with today's programs in a package of [`OLD_UPGRADER`].
pub fn upgradable_from_old_version(debian: Debian) -> Result<World> {
    let today = upgrader()?;
    upgradable_with(debian, &Package { version: OLD_UPGRADER.to_owned(), ..today.clone() }, &today)
}

/// A machine with a database in Debian's PostgreSQL, on which such a release is installed ([`database::release`]), with its upgrader.
pub fn with_database(debian: Debian, release: &Release, upgrader: &Package) -> Result<World> {
    let engine = Engine::connect()?;
    engine.sweep()?;
    let base = debian_packages(&engine, debian, "postgresql", &["postgresql"], database::PREPARE)?;
    let image = installed(&engine, &base, &format!("{debian}-postgresql"), release, Some(upgrader))?;
    let mut world = World::boot_image(Storage::wanted()?, &engine, &image)?;
    world.publish(release.packages.iter().chain([upgrader]))?;
    world.machine.sh(database::UP)?;
    Ok(world)
}

/// The image of a machine on which a release is installed, and then maybe an upgrader. `kind` is what the machine was before.
fn installed(
    engine: &Engine,
    base: &Image,
    kind: &str,
    release: &Release,
    upgrader: Option<&Package>,
) -> Result<Image> {
    let name = format!("{kind}-{}-{}", release.product, release.version);
    let image = installed_image(engine, &name, base, &release.packages, &release.product)?;
    let Some(upgrader) = upgrader else { return Ok(image) };
    let packages: Vec<Package> = release.packages.iter().chain([upgrader]).cloned().collect();
    installed_image(engine, &format!("{name}-ready"), &image, &packages, &upgrader.name)
}

/// The image of a machine on which one of these packages is installed with its dependencies; made if it is missing.
pub(crate) fn installed_image(
    engine: &Engine,
    name: &str,
    base: &Image,
    packages: &[Package],
    wanted: &str,
) -> Result<Image> {
    let debs = packages.iter().map(|package| Ok(deb::build(package)?.bytes)).collect::<Result<Vec<_>>>()?;
    let image = Image::of(name, debs.iter().map(AsRef::as_ref).chain([base.tag.as_bytes(), INSTALLATION.as_bytes()]));
    image.make_once(engine, || {
        let mut world = World::boot_image(Storage::Layers, engine, base)?;
        world.publish(packages)?;
        world.install(&[wanted])?;
        world.machine.sh(INSTALLATION)?;
        world.machine.save(&image)
    })?;
    Ok(image)
}

/// A machine with packages of Debian, prepared by a shell script, and an empty repository. Its disk is saved as an image, as with
/// [`at_release`]; `name` is part of the name of the image.
pub fn with_debian_packages(
    disk: Storage,
    debian: Debian,
    name: &str,
    packages: &[&str],
    prepare: &str,
) -> Result<World> {
    let engine = Engine::connect()?;
    engine.sweep()?;
    World::boot_image(disk, &engine, &debian_packages(&engine, debian, name, packages, prepare)?)
}

/// The image of such a machine.
pub(crate) fn debian_packages(
    engine: &Engine,
    debian: Debian,
    name: &str,
    packages: &[&str],
    prepare: &str,
) -> Result<Image> {
    let machine = debian.machine();
    let install = from_debian(packages);
    let ingredients = [&machine.tag, install.as_str(), prepare, INSTALLATION].map(str::as_bytes);
    let image = Image::of(&format!("{debian}-{name}"), ingredients);
    image.make_once(engine, || {
        let machine = Machine::boot(Storage::Layers, engine, &machine)?;
        machine.install_from_debian(packages)?;
        for script in [prepare, INSTALLATION] {
            machine.sh(script)?;
        }
        machine.save(&image)
    })?;
    Ok(image)
}

/// Runs before an installed machine is saved: removes the package lists, which are of another repository, and the machine's identity.
pub(crate) const INSTALLATION: &str =
    "apt-get clean; rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log; : >/etc/machine-id; sync";

/// Today's upgrader as it is shipped, but with hooks that leave marks instead of the product's own. Those need provd and Python, which
/// only the machines of [`exchange`](crate::machines::exchange) have.
pub fn upgrader() -> Result<Package> {
    upgrader_of(&XIVO)
}

/// The same of another product.
pub fn upgrader_of(product: &Product) -> Result<Package> {
    let mut package = for_synthetic_services(product.upgrader()?)?;
    for (phase, name) in HOOKS {
        package = package.file(&format!("/usr/share/{}/{phase}.d/{name}", product.package()), marking_hook(), 0o755);
    }
    Ok(package)
}

/// An old upgrader. Its first program is the real one. Its second one cannot upgrade anything, so an upgrade succeeds only if the
/// first updates the second and then runs the new one.
pub fn old_upgrader(product: &Product) -> Result<Package> {
    let mut package = for_synthetic_services(product.upgrader()?)?;
    OLD_UPGRADER.clone_into(&mut package.version);
    for file in &mut package.files {
        if file.path == format!("/usr/bin/real-{}", product.package()) {
            // At boot there is nothing to resume.
            file.content =
                b"#!/bin/sh\n[ \"$1\" != resume ] || exit 0\necho 'the old second program ran' >&2\nexit 99\n".to_vec();
        }
    }
    Ok(package)
}

/// An upgrader for machines whose services are synthetic: without the hooks in Python that need provd, and without the commands that
/// check whether a real PostgreSQL and a real asterisk are ready. It has no settling time; tests that need one set it.
pub fn for_synthetic_services(mut package: Package) -> Result<Package> {
    package.files.retain(|file| !file.content.starts_with(b"#!/usr/bin/python3"));
    if let Some(depends) = package.control.get_mut("Depends") {
        *depends = depends.split(", ").filter(|one| !one.starts_with("python3")).collect::<Vec<_>>().join(", ");
    }
    if package.name != XIVO.package() {
        return Ok(package);
    }
    definition::edited(package, |product| {
        definition::set_services(product, "ready", None);
        definition::set_services(product, "settle", Some("0s"));
        Ok(())
    })
}

/// The package that is left half-configured for a run to finish.
pub const UNFINISHED: &str = "unfinished";

/// Leaves a package with this postinst half-configured, as dpkg does if it is killed.
pub fn leave_unfinished(machine: &Machine, postinst: &str) -> Result<()> {
    let package = Package::new(UNFINISHED, "1.0").script("postinst", postinst);
    machine.write("/root/unfinished.deb", &deb::build(&package)?.bytes, 0o644)?;
    // What dpkg had not yet written into its database when it was killed: the same once more.
    let script = format!("dpkg-query --status {UNFINISHED} >/var/lib/dpkg/updates/0000");
    machine.sh(&format!("dpkg --unpack /root/unfinished.deb 2>&1; {script}")).map(drop)
}

/// A hook that logs its phase, name and versions.
#[must_use]
pub fn marking_hook() -> String {
    format!(
        "#!/bin/sh\nset -eu\necho \"$UPGRADE_PHASE ${{0##*/}} ($UPGRADE_VERSION_INSTALLED -> $UPGRADE_VERSION_CANDIDATE)\" >>{HOOK_MARKS}\n"
    )
}
