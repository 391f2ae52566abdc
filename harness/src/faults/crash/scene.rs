//! The machines on which points begin.

use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::call::{self, Call};
use super::database;
use super::strike::{COUNTED, Deed, Place, Strike, count_and_fail, make_places, places};
use crate::machines::engine::Engine;
use crate::machines::image::{Debian, Image};
use crate::machines::machine::{Machine, Storage};
use crate::machines::product_machine::{debian_packages, kept, upgrader};
use crate::machines::transcript::Transcript;
use crate::machines::world::World;
use crate::packages::deb::{self, Deb};
use crate::packages::package::Package;
use crate::packages::release::Release;
use crate::packages::shipped::XIVO;

/// The releases that a machine is between: packages and units get other names, a library another soname, a conffile moves.
const RELEASES: [&str; 2] = ["1.1", "1.2.3"];

/// What looks on, from Debian: system calls are counted and interrupted by one, extended attributes printed by the other.
const INSTRUMENTS: [&str; 2] = ["strace", "attr"];

/// The maintainer script in which a run dies that another one resumes.
const CUT: &str = "asterisk.postinst";

/// The one that fails, so that a machine goes back.
const FAILS: &str = "xivo-provd.postinst";

/// As long as this is there, nobody takes a run up at boot.
pub(super) const ASLEEP: &str = "/var/lib/crash/asleep";

/// What a machine is doing when something happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Scene {
    /// It is upgraded.
    Run,
    /// It was cut short while packages changed; somebody starts the upgrader.
    Resume,
    /// The same, and the unit at boot starts.
    Boot,
    /// A maintainer script failed, and the way back was cut short at its beginning; somebody starts the upgrader.
    Back,
    /// It has a database, which is migrated.
    Migration,
}

impl Scene {
    /// Those in which calls are counted.
    pub(super) const ALL: [Self; 4] = [Self::Run, Self::Resume, Self::Boot, Self::Back];

    /// Its word in the names of points.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Resume => "resume",
            Self::Boot => "boot",
            Self::Back => "back",
            Self::Migration => "migration",
        }
    }

    /// Lets it begin, and waits for its end.
    pub(super) fn begin(self, world: &World) -> Result<Ended> {
        if self == Self::Boot {
            let (unit, _) = self.unit();
            // One that fails is no reason to end here.
            world.machine.sh(&format!("rm -f {ASLEEP}; systemctl start {unit} || :"))?;
            return Ended::at_boot(&world.machine);
        }
        let Transcript { screen, exit, .. } = world.upgrade(&["--yes"]).run()?;
        Ok(Ended { exit: Some(exit), is_over: matches!(exit, 0 | 1 | 4 | 6), screen })
    }

    /// The unit in which the upgrader works, and its verb there.
    pub(super) fn unit(self) -> (&'static str, &'static str) {
        match self {
            Self::Boot => ("xivo-upgrade-resume.service", ::upgrader::context::RESUME),
            _ => ("xivo-upgrade-run.service", ::upgrader::context::WORK),
        }
    }
}

/// The machines of one Debian on which points begin.
pub(super) struct Stage {
    engine: Engine,
    debian: Debian,
    /// With the old release.
    old: Image,
    candidate: Vec<Deb>,
    /// Where the machines have their files.
    disk: Storage,
    /// The call of the upgrader with which it begins to go back.
    way_back: OnceLock<Call>,
}

impl Stage {
    /// Makes the machine with the old release, if there is none yet.
    pub(super) fn set(debian: Debian, disk: Storage) -> Result<Self> {
        let engine = Engine::connect()?;
        let upgrader = upgrader()?;
        let [mut old, mut new] = [Release::named(RELEASES[0])?.packages, Release::named(RELEASES[1])?.packages];
        make_places(&mut old);
        make_places(&mut new);
        let base = debian_packages(&engine, debian, "crash", &INSTRUMENTS, "mkdir /var/lib/crash")?;
        let installed = kept(&engine, &format!("{debian}-crash-installed"), &base, &old, XIVO.name)?;
        let places = places();
        let wanted = places.name.clone();
        let all: Vec<Package> = old.into_iter().chain([upgrader.clone(), places]).collect();
        let ready = kept(&engine, &format!("{debian}-crash-old"), &installed, &all, &wanted)?;
        let candidate = new.iter().chain([&upgrader]).map(deb::build).collect::<Result<_>>()?;
        Ok(Self { engine, debian, old: ready, candidate, disk, way_back: OnceLock::new() })
    }

    /// A machine on which a scene can begin: the new release is published for it, and nobody takes anything up at boot.
    pub(super) fn world(&self, scene: Scene) -> Result<World> {
        match (scene, self.disk) {
            (Scene::Migration, _) => database::world(&self.engine, self.debian),
            (Scene::Run, _) => self.boot(&self.old),
            (_, Storage::Layers) => {
                let world = self.boot(&self.kept(scene)?)?;
                // Its lists are those of another world.
                world.machine.sh("apt-get -qq update")?;
                Ok(world)
            }
            // What is not in the layers is not kept: it happens anew.
            (_, Storage::Host | Storage::Disk(_)) => {
                let world = self.boot(&self.old)?;
                self.die(scene, &world)?;
                Ok(world)
            }
        }
    }

    fn boot(&self, image: &Image) -> Result<World> {
        let mut world = World::boot_image_on(self.disk, &self.engine, image)?;
        world.publish_built(&self.candidate)?;
        Ok(world)
    }

    /// The name of what is known of these machines: it changes with them, and with nothing else.
    pub(super) fn tag(&self, more: &[&str]) -> String {
        let more = more.iter().map(|text| text.as_bytes());
        let storage = format!("{:?}", self.disk);
        Image::of("crash", self.ingredients().into_iter().chain(more).chain([storage.as_bytes()])).tag
    }

    fn ingredients(&self) -> Vec<&[u8]> {
        let debs = self.candidate.iter().map(|deb| deb.bytes.as_ref());
        debs.chain([self.old.tag.as_bytes()]).collect()
    }

    /// The machine on which a scene begins that goes on with another.
    fn kept(&self, scene: Scene) -> Result<Image> {
        let script = match scene {
            Scene::Back => count_and_fail(FAILS),
            _ => cut(),
        };
        let name = format!("{}-crash-{}", self.debian, if scene == Scene::Back { "back" } else { "cut" });
        let image = Image::of(&name, self.ingredients().into_iter().chain([script.as_bytes()]));
        image.make_once(&self.engine, || {
            let world = self.boot(&self.old)?;
            self.die(scene, &world)?;
            world.machine.sh(": >/etc/machine-id; sync")?;
            world.machine.save(&image)
        })?;
        Ok(image)
    }

    /// Lets the upgrader die on a machine as it has before a scene begins that goes on with it.
    fn die(&self, scene: Scene, world: &World) -> Result<()> {
        let script = match scene {
            Scene::Back => {
                let kill = Strike { place: Place::Write(self.way_back()?), deed: Deed::KillUpgrader };
                count_and_fail(FAILS) + &kill.script(Scene::Run)
            }
            _ => cut(),
        };
        world.machine.sh(&script)?;
        let died = world.upgrade(&["--yes"]).run()?;
        ensure!(died.exit == 5 && died.screen.contains("the process that did it is gone"), "{died}");
        world.machine.sh(&format!("touch {ASLEEP}"))?;
        Ok(())
    }

    /// The call with which the upgrader begins to go back when a maintainer script fails.
    fn way_back(&self) -> Result<Call> {
        if let Some(call) = self.way_back.get() {
            return Ok(call.clone());
        }
        let world = self.boot(&self.old)?;
        world.machine.sh(&count_and_fail(FAILS))?;
        let failed = world.upgrade(&["--yes"]).run()?;
        ensure!(failed.exit == 4, "{failed}");
        let calls = call::read(world.machine.sh(COUNTED)?.split("==\n").next().unwrap_or_default());
        let begins = calls.into_iter().find(|call| call.step == "roll-back").context("it never went back")?;
        Ok(self.way_back.get_or_init(|| begins).clone())
    }
}

/// What lets a run die while packages change, with all that it has started.
fn cut() -> String {
    Strike { place: Place::Script(CUT.to_owned()), deed: Deed::KillAll }.script(Scene::Run)
}

/// How a scene ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// What its exit code says of the machine; none if it was killed, or says nothing.
    pub(super) exit: Option<i64>,
    /// True if nobody has to do anything about it.
    pub(super) is_over: bool,
    screen: String,
}

impl Ended {
    /// Nobody saw an end.
    pub(super) fn nothing() -> Self {
        Self { exit: None, is_over: false, screen: String::new() }
    }

    /// How the unit at boot ended, once it has.
    pub(super) fn at_boot(machine: &Machine) -> Result<Self> {
        let (unit, _) = Scene::Boot.unit();
        let screen = machine.sh(&format!(
            "until systemctl show -P ActiveState {unit} | grep -qv activating; do sleep 0.05; done
            systemctl show -P ExecMainCode -P ExecMainStatus {unit}"
        ))?;
        Ok(match screen.trim().split_once('\n') {
            // CLD_EXITED (sigaction(2)), and nothing is left to do: a run that had changed nothing is forgotten.
            Some(("1", "0")) => Self { exit: None, is_over: true, screen },
            Some(("1", status)) => Self { exit: Some(status.parse()?), is_over: matches!(status, "4" | "6"), screen },
            // The unit's condition was not met, or it was killed.
            _ => Self { exit: None, is_over: false, screen },
        })
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n[{:?}]\n", self.screen, self.exit)
    }
}
