use anyhow::Result;

use crate::image::Debian;
use crate::observation::HOOK_MARKS;
use crate::package::Package;
use crate::release::Release;
use crate::shipped;
use crate::world::World;

/// The version of the upgrader that a machine has before it updates itself.
pub const OLD_UPGRADER: &str = "0.0.9";

/// The hooks of the tests, deliberately not in the order in which they run.
const HOOKS: [(&str, &str); 4] = [
    ("post-upgrade", "20-second"),
    ("pre-upgrade", "20-second"),
    ("post-upgrade", "10-first.sh"),
    ("pre-upgrade", "10-first"),
];

/// A machine in the field: an exchange that was installed with an old release.
#[derive(Debug)]
pub struct Appliance {
    /// The machine and its repository.
    pub world: World,
}

impl Appliance {
    /// Installs an old release and the upgrader of its day on a fresh machine.
    pub fn installed(debian: Debian, release: &str, upgrader: &Package) -> Result<Self> {
        let mut world = World::boot(debian)?;
        world.publish(Release::named(release)?.packages.iter().chain([upgrader]))?;
        world.install(&["xivo"])?;
        Ok(Self { world })
    }

    /// Publishes a newer release, with today's upgrader.
    pub fn publish(&mut self, release: &str, upgrader: &Package) -> Result<()> {
        self.world.publish(Release::named(release)?.packages.iter().chain([upgrader]))
    }
}

/// Today's upgrader as it is shipped, with hooks that leave marks.
pub fn upgrader() -> Result<Package> {
    let mut package = shipped::upgrader()?;
    for (phase, name) in HOOKS {
        package = package.file(&format!("/usr/share/xivo-upgrade/{phase}.d/{name}"), marking_hook(), 0o755);
    }
    Ok(package)
}

/// An upgrader of an earlier day. Its first program is the real one; its second one is not able to upgrade anything, so
/// that no upgrade succeeds unless the first brings the second up to date and then runs what is on disk.
pub fn old_upgrader() -> Result<Package> {
    let mut package = shipped::upgrader()?;
    OLD_UPGRADER.clone_into(&mut package.version);
    for file in &mut package.files {
        if file.path == "/usr/bin/real-xivo-upgrade" {
            file.content = b"#!/bin/sh\necho 'the old real-xivo-upgrade ran' >&2\nexit 99\n".to_vec();
        }
    }
    Ok(package)
}

/// A hook that writes down when it ran and what it was told.
#[must_use]
pub fn marking_hook() -> String {
    format!(
        "#!/bin/sh\nset -eu\necho \"$UPGRADE_PHASE ${{0##*/}} ($UPGRADE_VERSION_INSTALLED -> $UPGRADE_VERSION_CANDIDATE)\" >>{HOOK_MARKS}\n"
    )
}
