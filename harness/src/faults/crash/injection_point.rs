//! The injection points: lists them, runs one, and judges its outcome.

use anyhow::Result;

use super::call;
use super::fixture::Fixture;
use super::injection::{Action, CUT, Injection, Location};
use super::phase::{NO_RESUME_AT_BOOT, Phase};
use super::phase_end::PhaseEnd;
use super::reference::Reference;
use crate::at_once::both;
use crate::machines::image::Debian;
use crate::machines::world::World;
use crate::observe::inventory::{Inventory, Section};
use crate::packages::shipped::SERVICES;

/// One injection point in so many is on the newer Debian.
const ON_NEWER_DEBIAN: usize = 5;

/// How many system calls of each run of dpkg are interrupted.
const OF_DPKG: usize = 8;

/// Alternates between killing dpkg alone and killing the whole upgrade.
fn killed() -> impl Iterator<Item = (&'static str, Action)> {
    [("", Action::KillDpkg), (":all", Action::KillAll)].into_iter().cycle()
}

/// One phase of an upgrade, and a fault that is injected into it.
#[derive(Debug, Clone)]
pub(super) struct InjectionPoint {
    /// Its name, unique: `write:17:run`.
    pub(super) name: String,
    pub(super) debian: Debian,
    phase: Phase,
    injection: Injection,
}

/// What a machine is after a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CrashOutcome {
    /// What a run without a fault makes of it.
    Completed,
    /// What it was before the upgrade.
    RolledBack,
    /// Neither; with the differences.
    Diverged(Vec<String>),
}

/// All injection points.
pub(super) fn all(reference: &Reference) -> Vec<InjectionPoint> {
    let mut points: Vec<(String, Phase, Location, Action)> = Vec::new();
    for (phase, calls) in &reference.calls {
        let key = phase.key();
        for (index, call) in call::chosen(calls) {
            points.push((format!("write:{index}:{key}"), *phase, Location::Write(call.clone()), Action::KillUpgrader));
        }
        let mut last = "";
        for (index, call) in calls.iter().enumerate() {
            // The journal says first that a step begins; the call after that is in the middle of it, or its end.
            if call.step != last {
                last = &call.step;
                let Some(call) = calls.get(index + 1) else { continue };
                for (word, alone) in [("alone", true), ("again", false)] {
                    let name = format!("power:{key}:{last}:{word}");
                    points.push((name, *phase, Location::Write(call.clone()), Action::CutPower { alone }));
                }
            }
        }
    }
    for (run, calls) in reference.dpkg.iter().enumerate() {
        let calls = calls.iter().step_by(calls.len().div_ceil(OF_DPKG).max(1));
        for (call, (word, action)) in calls.zip(killed()) {
            let location = Location::Dpkg(run + 1, call.clone());
            points.push((format!("dpkg:{}:{}:{}{word}", run + 1, call.name, call.nth), Phase::Run, location, action));
        }
    }
    for (script, (word, action)) in reference.scripts.iter().zip(killed()) {
        points.push((format!("script:{script}{word}"), Phase::Run, Location::Script(script.clone()), action));
    }
    for (word, alone) in [("alone", true), ("again", false)] {
        let mut cut = |name: String, phase, location| {
            points.push((format!("power:{name}:{word}"), phase, location, Action::CutPower { alone }));
        };
        for script in ["asterisk.preinst", "xivo-config.postrm", "xivo-agid.postinst"] {
            cut(format!("script:{script}"), Phase::Run, Location::Script(script.to_owned()));
        }
        for phase in ["pre-upgrade", "post-upgrade"] {
            cut(format!("hook:{phase}"), Phase::Run, Location::Hook(phase));
        }
        for (phase, service) in [(Phase::Run, "asterisk"), (Phase::Back, "xivo-provd"), (Phase::Resume, "nginx")] {
            cut(format!("start:{service}:{}", phase.key()), phase, Location::Start(service.to_owned()));
        }
    }
    for phase in ["pre-upgrade", "post-upgrade"] {
        for (word, action) in [("fails", Action::Fail), ("kills", Action::KillUpgrader), ("kills-all", Action::KillAll)]
        {
            points.push((format!("hook:{phase}:{word}"), Phase::Run, Location::Hook(phase), action));
        }
    }
    for service in SERVICES {
        let location = Location::Start(service.to_owned());
        points.push((format!("start:{service}:fails"), Phase::Run, location.clone(), Action::Fail));
        points.push((format!("start:{service}:kills"), Phase::Run, location, Action::KillUpgrader));
    }
    for directory in ["/var/lib/xivo-upgrade", "/var", "/usr", "/etc", "/var/log", "/var/cache/apt/archives"] {
        for (word, phase, location) in in_each_step(reference) {
            points.push((format!("full:{word}:{directory}"), phase, location, Action::Fill(directory)));
        }
    }
    for (word, action) in [
        ("fails", Action::Fail),
        ("kills", Action::KillUpgrader),
        ("kills-all", Action::KillAll),
        ("power:alone", Action::CutPower { alone: true }),
        ("power:again", Action::CutPower { alone: false }),
    ] {
        points.push((format!("migration:{word}"), Phase::Migration, Location::Migration, action));
    }
    let point = |(index, (name, phase, location, action)): (usize, (String, Phase, Location, Action))| InjectionPoint {
        name,
        debian: if index % ON_NEWER_DEBIAN == ON_NEWER_DEBIAN - 1 { Debian::Trixie } else { Debian::Bookworm },
        phase,
        injection: Injection { location, action },
    };
    points.into_iter().enumerate().map(point).collect()
}

impl InjectionPoint {
    /// Injects the fault on a machine, does what an admin does then, and compares the machine with the references.
    pub(super) fn run(&self, fixture: &Fixture, reference: &Reference) -> Result<(CrashOutcome, String)> {
        let world = fixture.world(self.phase)?;
        let cut = match self.injection.action {
            Action::CutPower { alone } => Some(alone),
            _ => None,
        };
        world.machine.sh(&self.injection.script(self.phase))?;
        world.machine.sh(&match cut {
            Some(true) => format!("rm -f {NO_RESUME_AT_BOOT}"),
            Some(false) => format!("touch {NO_RESUME_AT_BOOT}"),
            None => ":".to_owned(),
        })?;
        let mut log = String::new();
        let mut ended = match cut {
            Some(alone) => self.power_cut(&world, alone)?,
            None => PhaseEnd::of(self.phase, &world)?,
        };
        log.push_str(&ended.to_string());
        let mut wrong = Vec::new();
        if cut.is_none() && world.machine.command(&["sh", "-c", &self.injection.was_injected()]).run()?.exit != 0 {
            wrong.push("the fault was not injected".to_owned());
        }
        world.machine.sh(&self.injection.cleanup())?;
        if !ended.is_over && cut != Some(true) {
            ended = PhaseEnd::of(Phase::Run, &world)?;
            log.push_str(&ended.to_string());
        }
        let now = Inventory::collect(&world.machine, &[Section::Files])?;
        let references = match self.phase {
            Phase::Migration => (&reference.database.0, &reference.database.1),
            _ => (&reference.old, &reference.upgraded),
        };
        let outcome = judge(&now, references, ended.exit, wrong);
        if matches!(outcome, CrashOutcome::Diverged(_)) {
            log.push_str(&world.machine.sh(
                "echo; cat /var/log/xivo-upgrade.log; echo; cat /var/lib/xivo-upgrade/journal* || :; journalctl --no-pager | tail -n 300",
            )?);
        }
        Ok((outcome, log))
    }

    /// Starts the phase, cuts the power at its location, and boots the machine again.
    fn power_cut(&self, world: &World, alone: bool) -> Result<PhaseEnd> {
        // Its screen ends with the power.
        let (_, cut) = both(
            || PhaseEnd::of(self.phase, world),
            || {
                world.machine.wait_until(&format!("test -e {CUT}"))?;
                world.machine.cut_power()
            },
        );
        cut?;
        world.machine.power_on()?;
        if alone { PhaseEnd::at_boot(&world.machine) } else { Ok(PhaseEnd::default()) }
    }
}

/// Says what a machine is now, and what contradicts that.
fn judge(
    now: &Inventory,
    (old, upgraded): (&Inventory, &Inventory),
    exit: Option<i64>,
    mut wrong: Vec<String>,
) -> CrashOutcome {
    let (to_old, to_new) = (now.differences(old), now.differences(upgraded));
    let (is_old, is_new) = (to_old.is_empty(), to_new.is_empty());
    match exit {
        Some(code @ (0 | 6)) if !is_new => wrong.push(format!("the exit code {code} says that it is upgraded")),
        Some(code @ (1 | 4)) if !is_old => wrong.push(format!("the exit code {code} says that it is unchanged")),
        Some(0 | 1 | 4 | 6) | None => {}
        Some(other) => wrong.push(format!("the exit code is {other}")),
    }
    if !is_old && !is_new {
        wrong.extend(if to_old.len() < to_new.len() { to_old } else { to_new });
    }
    match (wrong.is_empty(), is_new) {
        (false, _) => CrashOutcome::Diverged(wrong),
        (true, true) => CrashOutcome::Completed,
        (true, false) => CrashOutcome::RolledBack,
    }
}

/// A location in the middle of each step of a run and of a rollback, by its name.
fn in_each_step(reference: &Reference) -> Vec<(String, Phase, Location)> {
    let hook = |phase| Location::Hook(phase);
    let start = |service: &str| Location::Start(service.to_owned());
    let mut locations = vec![
        ("pre-upgrade-hooks".to_owned(), Phase::Run, hook("pre-upgrade")),
        ("packages".to_owned(), Phase::Run, Location::Script("xivo-provd.preinst".to_owned())),
        ("post-upgrade-hooks".to_owned(), Phase::Run, hook("post-upgrade")),
        ("restart".to_owned(), Phase::Run, start("asterisk")),
    ];
    // In others the journal says first that the step begins; then comes what is in the middle of it, or its end.
    for (phase, steps) in
        [(Phase::Run, ["download", "save-rollback-data"]), (Phase::Back, ["roll-back", "restart-old"])]
    {
        let calls = reference.calls.iter().filter(|(of, _)| *of == phase).flat_map(|(_, calls)| calls);
        for step in steps {
            if let Some(call) = calls.clone().filter(|call| call.step == step).nth(1) {
                locations.push((step.to_owned(), phase, Location::Write(call.clone())));
            }
        }
    }
    locations
}
