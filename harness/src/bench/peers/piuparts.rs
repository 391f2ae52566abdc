//! Runs the same upgrade with piuparts.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{NEW, timed};
use crate::machines::image::Debian;
use crate::machines::world::World;
use crate::packages::repository::ORIGIN;

/// What its machine has.
pub(super) const PACKAGES: [&str; 2] = ["piuparts", "debootstrap"];

/// The chroot that piuparts unpacks each time.
const BASE: &str = "/root/base.tar.gz";

/// piuparts with what makes it as quick as it can be here: no check by adequate, and of its tests the one of the upgrade. Its
/// chroots cannot be in memory: there are no devices below /tmp.
const PIUPARTS: &str = "piuparts --tmpdir=/var/tmp --no-adequate --no-install-purge-test --distribution=";

/// Where its scripts are: those that are called `post_setup…` run in each chroot.
const SCRIPTS: &str = "/root/scripts";

/// Lets its chroots prefer the release's packages, as Debian has newer ones of some of their names, and has it make its chroot.
pub(super) fn prepare(world: &World, debian: Debian) -> Result<()> {
    let script = format!(
        "#!/bin/sh\nprintf 'Package: *\\nPin: release o={ORIGIN}\\nPin-Priority: 1001\\n' >/etc/apt/preferences.d/release\n"
    );
    world.machine.write(&format!("{SCRIPTS}/post_setup_preferences"), script.as_bytes(), 0o755)?;
    let mirror = mirror(world)?;
    let options = format!("--mirror='{mirror} main' --save={BASE} --no-upgrade-test {NEW}/xivo-sounds_*.deb");
    timed(world, &format!("{PIUPARTS}{debian} {options}"), "PASS: All tests").map(drop)
}

/// Has it test the upgrade in that chroot, and returns how long that took.
pub(super) fn run(world: &World, debian: Debian) -> Result<Duration> {
    let (mirror, url) = (mirror(world)?, world.url()?);
    let options = format!(
        "--mirror='{mirror} main' --basetgz={BASE} --scriptsdir={SCRIPTS} --extra-repo='deb [trusted=yes] {url} stable main' {NEW}/*.deb"
    );
    timed(world, &format!("{PIUPARTS}{debian} {options}"), "PASS: Installation, upgrade and purging tests")
}

/// The mirror that the machine's own sources name.
fn mirror(world: &World) -> Result<String> {
    let sources = world.machine.sh("cat /etc/apt/debian-sources/*")?;
    let mirror = sources.split_whitespace().find(|field| field.starts_with("http"));
    mirror.map(str::to_owned).context("the machine's sources name no mirror")
}
