//! The machines on which injection points begin, made once and cached as images.

use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};

use super::call::{self, Call};
use super::database;
use super::injection::{Action, COUNTED, Injection, Location, count_and_fail, instrument, instruments};
use super::phase::{NO_RESUME_AT_BOOT, Phase};
use crate::machines::engine::Engine;
use crate::machines::image::{Debian, Image};
use crate::machines::machine::Storage;
use crate::machines::product_machine::{debian_packages, installed_image, upgrader};
use crate::machines::world::World;
use crate::packages::deb::{self, Deb};
use crate::packages::package::Package;
use crate::packages::release::Release;
use crate::packages::shipped::XIVO;

/// The releases that a machine is between: packages and units get other names, a library another soname, a conffile moves.
const RELEASES: [&str; 2] = ["1.1", "1.2.3"];

/// Packages of Debian: strace counts and interrupts system calls, attr prints extended attributes.
const TOOLS: [&str; 2] = ["strace", "attr"];

/// The maintainer script in which a run is killed that another one resumes.
const KILLED_IN: &str = "asterisk.postinst";

/// The maintainer script that fails, so that a machine is rolled back.
const FAILS: &str = "xivo-provd.postinst";

/// The machines of one Debian on which injection points begin.
pub(super) struct Fixture {
    engine: Engine,
    debian: Debian,
    /// With the old release.
    old: Image,
    candidate: Vec<Deb>,
    /// Where the machines have their files.
    disk: Storage,
    /// The system call with which the upgrader begins the rollback.
    rollback_begins: OnceLock<Call>,
}

impl Fixture {
    /// Builds the packages, and the machine with the old release if there is none yet.
    pub(super) fn new(debian: Debian, disk: Storage) -> Result<Self> {
        let engine = Engine::connect()?;
        let upgrader = upgrader()?;
        let [mut old, mut new] = [Release::named(RELEASES[0])?.packages, Release::named(RELEASES[1])?.packages];
        instrument(&mut old);
        instrument(&mut new);
        let base = debian_packages(&engine, debian, "crash", &TOOLS, "mkdir /var/lib/crash")?;
        let installed = installed_image(&engine, &format!("{debian}-crash-installed"), &base, &old, XIVO.name)?;
        let instruments = instruments();
        let wanted = instruments.name.clone();
        let all: Vec<Package> = old.into_iter().chain([upgrader.clone(), instruments]).collect();
        let ready = installed_image(&engine, &format!("{debian}-crash-old"), &installed, &all, &wanted)?;
        let candidate = new.iter().chain([&upgrader]).map(deb::build).collect::<Result<_>>()?;
        Ok(Self { engine, debian, old: ready, candidate, disk, rollback_begins: OnceLock::new() })
    }

    /// A machine on which a phase can begin: the new release is published for it, and the unit at boot resumes nothing.
    pub(super) fn world(&self, phase: Phase) -> Result<World> {
        match (phase, self.disk) {
            (Phase::Migration, _) => database::world(&self.engine, self.debian),
            (Phase::Run, _) => self.boot(&self.old),
            (_, Storage::Layers) => {
                let world = self.boot(&self.interrupted(phase)?)?;
                // Its package lists are those of another world.
                world.machine.sh("apt-get -qq update")?;
                Ok(world)
            }
            // Files outside of the layers are not part of an image: the upgrader is killed on each machine.
            (_, Storage::Host | Storage::Disk(_) | Storage::ServedDisk(_)) => {
                let world = self.boot(&self.old)?;
                self.kill_upgrader(phase, &world)?;
                Ok(world)
            }
        }
    }

    fn boot(&self, image: &Image) -> Result<World> {
        let mut world = World::boot_image(self.disk, &self.engine, image)?;
        world.publish_built(&self.candidate)?;
        Ok(world)
    }

    /// The cache key of what is known about these machines.
    pub(super) fn tag(&self, more: &[&str]) -> String {
        let more = more.iter().map(|text| text.as_bytes());
        let storage = format!("{:?}", self.disk);
        Image::of("crash", self.ingredients().into_iter().chain(more).chain([storage.as_bytes()])).tag
    }

    fn ingredients(&self) -> Vec<&[u8]> {
        let debs = self.candidate.iter().map(|deb| deb.bytes.as_ref());
        debs.chain([self.old.tag.as_bytes()]).collect()
    }

    /// The image of a machine on which the upgrader was killed, for a phase that resumes its run.
    fn interrupted(&self, phase: Phase) -> Result<Image> {
        let script = match phase {
            Phase::Back => count_and_fail(FAILS),
            _ => kill_all(),
        };
        let name = format!("{}-crash-{}", self.debian, if phase == Phase::Back { "back" } else { "cut" });
        let image = Image::of(&name, self.ingredients().into_iter().chain([script.as_bytes()]));
        image.make_once(&self.engine, || {
            let world = self.boot(&self.old)?;
            self.kill_upgrader(phase, &world)?;
            world.machine.sh(": >/etc/machine-id; sync")?;
            world.machine.save(&image)
        })?;
        Ok(image)
    }

    /// Has the upgrader killed on a machine, before a phase begins that resumes its run.
    fn kill_upgrader(&self, phase: Phase, world: &World) -> Result<()> {
        let script = match phase {
            Phase::Back => {
                let kill =
                    Injection { location: Location::Write(self.rollback_begins()?), action: Action::KillUpgrader };
                count_and_fail(FAILS) + &kill.script(Phase::Run)
            }
            _ => kill_all(),
        };
        world.machine.sh(&script)?;
        let died = world.upgrade(&["--yes"]).run()?;
        let run = if phase == Phase::Back { "rollback" } else { "upgrade" };
        let message = format!("the {run} was interrupted: its process is gone");
        ensure!(died.exit == 5 && died.screen.contains(&message), "{died}");
        world.machine.sh(&format!("touch {NO_RESUME_AT_BOOT}"))?;
        Ok(())
    }

    /// The system call with which the upgrader begins the rollback when a maintainer script fails.
    fn rollback_begins(&self) -> Result<Call> {
        if let Some(call) = self.rollback_begins.get() {
            return Ok(call.clone());
        }
        let world = self.boot(&self.old)?;
        world.machine.sh(&count_and_fail(FAILS))?;
        let failed = world.upgrade(&["--yes"]).run()?;
        ensure!(failed.exit == 4, "{failed}");
        let calls = call::read(world.machine.sh(COUNTED)?.split("==\n").next().unwrap_or_default());
        let begins = calls.into_iter().find(|call| call.step == "roll-back").context("it never rolled back")?;
        Ok(self.rollback_begins.get_or_init(|| begins).clone())
    }
}

/// Kills the upgrader and all that it has started while packages change.
fn kill_all() -> String {
    Injection { location: Location::Script(KILLED_IN.to_owned()), action: Action::KillAll }.script(Phase::Run)
}
