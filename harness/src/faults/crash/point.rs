//! What is done to a machine, and what became of it.

use anyhow::{Result, ensure};

use super::call;
use super::reference::Reference;
use super::scene::{ASLEEP, Ended, Scene, Stage};
use super::strike::{CUT, Deed, Place, Strike};
use super::whole::Whole;
use crate::machines::image::Debian;
use crate::machines::world::World;
use crate::packages::shipped::SERVICES;

/// Every how many-th point is on the newer Debian.
const ELSEWHERE: usize = 5;

/// How many calls are taken of each run of dpkg.
const OF_DPKG: usize = 8;

/// In turns: dpkg alone is killed, or all of the upgrade with it.
fn killed() -> impl Iterator<Item = (&'static str, Deed)> {
    [("", Deed::KillDpkg), (":all", Deed::KillAll)].into_iter().cycle()
}

/// One place in an upgrade at which something happens to the machine.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// Its name, unique: `write:17:run`.
    pub(super) name: String,
    pub(super) debian: Debian,
    scene: Scene,
    strike: Strike,
}

/// What became of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is what an undisturbed run makes of it.
    Completed,
    /// It is what it was.
    RolledBack,
    /// It is neither: in these respects.
    Diverged(Vec<String>),
}

/// Every point there is.
pub(super) fn all(reference: &Reference) -> Vec<Point> {
    let mut points: Vec<(String, Scene, Place, Deed)> = Vec::new();
    for (scene, calls) in &reference.calls {
        let key = scene.key();
        for (index, call) in call::chosen(calls) {
            points.push((format!("write:{index}:{key}"), *scene, Place::Write(call.clone()), Deed::KillUpgrader));
        }
        let mut last = "";
        for (index, call) in calls.iter().enumerate() {
            // The journal says first that a step begins; the call after that is in the middle of it, or its end.
            if call.step != last {
                last = &call.step;
                let Some(call) = calls.get(index + 1) else { continue };
                for (word, alone) in [("alone", true), ("again", false)] {
                    let name = format!("power:{key}:{last}:{word}");
                    points.push((name, *scene, Place::Write(call.clone()), Deed::CutPower { alone }));
                }
            }
        }
    }
    for (run, calls) in reference.dpkg.iter().enumerate() {
        let calls = calls.iter().step_by(calls.len().div_ceil(OF_DPKG).max(1));
        for (call, (word, deed)) in calls.zip(killed()) {
            let place = Place::Dpkg(run + 1, call.clone());
            points.push((format!("dpkg:{}:{}:{}{word}", run + 1, call.name, call.nth), Scene::Run, place, deed));
        }
    }
    for (script, (word, deed)) in reference.scripts.iter().zip(killed()) {
        points.push((format!("script:{script}{word}"), Scene::Run, Place::Script(script.clone()), deed));
    }
    for (word, alone) in [("alone", true), ("again", false)] {
        let cut = Deed::CutPower { alone };
        for script in ["asterisk.preinst", "xivo-config.postrm", "xivo-agid.postinst"] {
            points.push((format!("power:script:{script}:{word}"), Scene::Run, Place::Script(script.to_owned()), cut));
        }
        for phase in ["pre-upgrade", "post-upgrade"] {
            points.push((format!("power:hook:{phase}:{word}"), Scene::Run, Place::Hook(phase), cut));
        }
        for (scene, service) in [(Scene::Run, "asterisk"), (Scene::Back, "xivo-provd"), (Scene::Resume, "nginx")] {
            let place = Place::Start(service.to_owned());
            points.push((format!("power:start:{service}:{}:{word}", scene.key()), scene, place, cut));
        }
    }
    for phase in ["pre-upgrade", "post-upgrade"] {
        for (word, deed) in [("fails", Deed::Fail), ("kills", Deed::KillUpgrader), ("kills-all", Deed::KillAll)] {
            points.push((format!("hook:{phase}:{word}"), Scene::Run, Place::Hook(phase), deed));
        }
    }
    for service in SERVICES {
        let place = Place::Start(service.to_owned());
        points.push((format!("start:{service}:fails"), Scene::Run, place.clone(), Deed::Fail));
        points.push((format!("start:{service}:kills"), Scene::Run, place, Deed::KillUpgrader));
    }
    for directory in ["/var/lib/xivo-upgrade", "/var", "/usr", "/etc", "/var/log", "/var/cache/apt/archives"] {
        for (word, scene, place) in in_each_step(reference) {
            points.push((format!("full:{word}:{directory}"), scene, place, Deed::Fill(directory)));
        }
    }
    let cut = |alone| Deed::CutPower { alone };
    for (word, deed) in [
        ("fails", Deed::Fail),
        ("kills", Deed::KillUpgrader),
        ("kills-all", Deed::KillAll),
        ("power:alone", cut(true)),
        ("power:again", cut(false)),
    ] {
        points.push((format!("migration:{word}"), Scene::Migration, Place::Migration, deed));
    }
    let point = |(index, (name, scene, place, deed)): (usize, (String, Scene, Place, Deed))| Point {
        name,
        debian: if index % ELSEWHERE == ELSEWHERE - 1 { Debian::Trixie } else { Debian::Bookworm },
        scene,
        strike: Strike { place, deed },
    };
    points.into_iter().enumerate().map(point).collect()
}

impl Point {
    /// Lets it happen on a machine, does what an admin does then, and looks what became of the machine.
    pub(super) fn run(&self, stage: &Stage, reference: &Reference) -> Result<(Verdict, String)> {
        let world = stage.world(self.scene)?;
        let cut = match self.strike.deed {
            Deed::CutPower { alone } => Some(alone),
            _ => None,
        };
        world.machine.sh(&self.strike.script(self.scene))?;
        world.machine.sh(&match cut {
            Some(true) => format!("rm -f {ASLEEP}"),
            Some(false) => format!("touch {ASLEEP}"),
            None => ":".to_owned(),
        })?;
        let mut story = String::new();
        let mut ended = match cut {
            Some(alone) => self.power_cut(&world, alone)?,
            None => self.scene.begin(&world)?,
        };
        story.push_str(&ended.to_string());
        let mut wrong = Vec::new();
        if cut.is_none() && world.machine.command(&["sh", "-c", &self.strike.is_done()]).run()?.exit != 0 {
            wrong.push("nothing happened".to_owned());
        }
        world.machine.sh(&self.strike.mend())?;
        if !ended.is_over && cut != Some(true) {
            ended = Scene::Run.begin(&world)?;
            story.push_str(&ended.to_string());
        }
        let now = Whole::of(&world.machine)?;
        let references = match self.scene {
            Scene::Migration => (&reference.database.0, &reference.database.1),
            _ => (&reference.old, &reference.upgraded),
        };
        let verdict = judge(&now, references, ended.exit, wrong);
        if matches!(verdict, Verdict::Diverged(_)) {
            story.push_str(&world.machine.sh(
                "echo; cat /var/log/xivo-upgrade.log; echo; cat /var/lib/xivo-upgrade/journal* || :; journalctl --no-pager | tail -n 300",
            )?);
        }
        Ok((verdict, story))
    }

    /// Begins, cuts the power when it is time, and boots the machine again.
    fn power_cut(&self, world: &World, alone: bool) -> Result<Ended> {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| self.scene.begin(world));
            world.machine.sh(&format!("timeout 120 sh -c 'until test -e {CUT}; do sleep 0.02; done'"))?;
            world.machine.cut_the_power()?;
            // What was seen of it until then is of no interest.
            let _ = run.join();
            world.machine.power_on()
        })?;
        if alone { Ended::at_boot(&world.machine) } else { Ok(Ended::nothing()) }
    }
}

/// Says what a machine is now, and what contradicts that.
fn judge(now: &Whole, (old, upgraded): (&Whole, &Whole), exit: Option<i64>, mut wrong: Vec<String>) -> Verdict {
    let (to_old, to_new) = (now.differences(old), now.differences(upgraded));
    let (is_old, is_new) = (to_old.is_empty(), to_new.is_empty());
    match exit {
        Some(0 | 6) if !is_new => {
            wrong.push(format!("the exit code {} says that it is upgraded", exit.unwrap_or_default()));
        }
        Some(1 | 4) if !is_old => {
            wrong.push(format!("the exit code {} says that it is as it was", exit.unwrap_or_default()));
        }
        Some(0 | 1 | 4 | 6) | None => {}
        Some(other) => wrong.push(format!("the exit code is {other}")),
    }
    if !is_old && !is_new {
        wrong.extend(if to_old.len() < to_new.len() { to_old } else { to_new });
    }
    match (wrong.is_empty(), is_new) {
        (false, _) => Verdict::Diverged(wrong),
        (true, true) => Verdict::Completed,
        (true, false) => Verdict::RolledBack,
    }
}

/// A place in the middle of each step of a run and of the way back, by its name.
fn in_each_step(reference: &Reference) -> Vec<(String, Scene, Place)> {
    let hook = |phase| Place::Hook(phase);
    let start = |service: &str| Place::Start(service.to_owned());
    let mut places = vec![
        ("pre-upgrade-hooks".to_owned(), Scene::Run, hook("pre-upgrade")),
        ("packages".to_owned(), Scene::Run, Place::Script("xivo-provd.preinst".to_owned())),
        ("post-upgrade-hooks".to_owned(), Scene::Run, hook("post-upgrade")),
        ("restart".to_owned(), Scene::Run, start("asterisk")),
    ];
    // In others the journal says first that the step begins; then comes what is in the middle of it, or its end.
    for (scene, steps) in [(Scene::Run, ["download", "arm-rollback"]), (Scene::Back, ["roll-back", "restart-old"])] {
        let calls = reference.calls.iter().filter(|(of, _)| *of == scene).flat_map(|(_, calls)| calls);
        for step in steps {
            if let Some(call) = calls.clone().filter(|call| call.step == step).nth(1) {
                places.push((step.to_owned(), scene, Place::Write(call.clone())));
            }
        }
    }
    places
}

/// Fails if two points have one name.
pub(super) fn are_distinct(points: &[Point]) -> Result<()> {
    let mut names: Vec<&str> = points.iter().map(|point| point.name.as_str()).collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
    ensure!(twice.is_none(), "two points have one name: {twice:?}");
    Ok(())
}
