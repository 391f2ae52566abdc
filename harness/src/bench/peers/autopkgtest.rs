//! Runs the same upgrade with autopkgtest.

use std::time::Duration;

use anyhow::Result;

use super::{NEW, timed};
use crate::machines::world::World;
use crate::packages::release::Release;

/// What its machine has; its containers have the same. dpkg-dev is what it indexes the packages with that it is given, and without uidmap
/// trixie's does not begin, not even as root.
pub(super) const PACKAGES: [&str; 6] = ["autopkgtest", "podman", "crun", "uidmap", "ca-certificates", "dpkg-dev"];

/// The source package whose test is run.
const SOURCE: &str = "/root/upgrade";

/// Makes its containers' image of the machine's own files, with those that are on the host's filesystem.
const IMAGE: &str = r"
cd /
tar --create --one-file-system --exclude=./usr --exclude=./var --exclude=var/lib/containers --exclude=var/tmp/* . usr var |
    podman import --quiet - base";

/// Prepares the machine: the image, and a source package with one test, which looks whether the new release is installed.
pub(super) fn prepare(world: &World) -> Result<()> {
    world.machine.sh(IMAGE)?;
    let release = Release::named("1.2.2")?;
    let names = release.packages.iter().map(|package| package.name.as_str());
    let control = format!(
        "Test-Command: test \"$(dpkg-query --show --showformat='${{Version}}' xivo)\" = 1.2.2\nDepends: {}\n\
         Restrictions: needs-root\n",
        names.collect::<Vec<_>>().join(", ")
    );
    let changelog = "upgrade (1) unstable; urgency=low\n\n  * A test.\n\n -- Tests <tests@example.com>  Mon, 01 Jan 2024 00:00:00 +0000\n";
    let source = "Source: upgrade\nMaintainer: Tests <tests@example.com>\n\nPackage: upgrade\nArchitecture: all\nDescription: a test\n";
    for (name, text) in [("control", source), ("changelog", changelog), ("tests/control", &control)] {
        world.machine.write(&format!("{SOURCE}/debian/{name}"), text.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// Has it install the old release in a container, and test it with the packages of the new one; says how long that took.
///
/// Its containers have no systemd: they get no control groups of their own inside of a machine that is a container itself. What runs in
/// their place does not listen when it is asked to end, and would be waited for for ten seconds.
pub(super) fn run(world: &World) -> Result<Duration> {
    let url = world.url()?;
    let setup = format!(
        "rm -f /etc/apt/sources.list.d/*; echo 'deb [trusted=yes] {url} stable main' >/etc/apt/sources.list; \
         apt-get -qq update; apt-get -qq -y install xivo"
    );
    let command = format!(
        "autopkgtest --no-built-binaries --setup-commands \"{setup}\" {NEW}/*.deb {SOURCE}/ \
         -- podman localhost/base -- --network=host --cgroups=disabled --stop-timeout=0"
    );
    timed(world, &command, "command1             PASS")
}
