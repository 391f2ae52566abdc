//! Reference runs without a fault, to which the others are compared.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::call::{self, Call};
use super::database;
use super::fixture::Fixture;
use super::injection::{COUNTED, count};
use super::phase::Phase;
use super::phase_end::PhaseEnd;
use crate::at_once::{all, both, cached};
use crate::machines::image::Debian;
use crate::observe::inventory::{Inventory, Section};
use crate::packages::binaries;

/// What runs without a fault were like on one Debian: the machines that every injection point must end as, and what can be interrupted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Reference {
    /// The machine before it is upgraded.
    pub(super) old: Inventory,
    /// The machine after it.
    pub(super) upgraded: Inventory,
    /// The same of a machine with a database.
    pub(super) database: (Inventory, Inventory),
    /// The calls of the upgrader in a run, a resumed one, one that is resumed at boot, and in a rollback.
    pub(super) calls: Vec<(Phase, Vec<Call>)>,
    /// The calls of dpkg, each time that it was run to change something.
    pub(super) dpkg: Vec<Vec<Call>>,
    /// The maintainer scripts that ran: `asterisk.postinst`.
    pub(super) scripts: Vec<String>,
}

impl Reference {
    /// Makes it, unless it is known already.
    pub(super) fn of(debian: Debian, fixture: &Fixture) -> Result<Self> {
        let scripts = Phase::COUNTED.map(count);
        let listing = Inventory::script(&[Section::Files]);
        let ingredients: Vec<&str> =
            scripts.iter().chain([&listing]).map(String::as_str).chain(database::INGREDIENTS).collect();
        let name = format!("crash/references/{debian}-{}.json", fixture.tag(&ingredients));
        cached(&binaries::target().join(name), || Self::make(fixture))
    }

    /// Runs all phases at once: every other process waits for this one.
    fn make(fixture: &Fixture) -> Result<Self> {
        let old = || Inventory::collect(&fixture.world(Phase::Run)?.machine, &[Section::Files]);
        let database = || {
            let world = fixture.world(Phase::Migration)?;
            let before = Inventory::collect(&world.machine, &[Section::Files])?;
            let ended = PhaseEnd::of(Phase::Migration, &world)?;
            ensure!(ended.exit == Some(0), "{ended:?}");
            Ok((before, Inventory::collect(&world.machine, &[Section::Files])?))
        };
        let (unchanged, runs) =
            both(|| Ok(both(old, database)), || all(Phase::COUNTED, |phase| Self::run(fixture, phase)));
        let ((old, database), mut runs) = (unchanged?, runs?);
        let calls = runs.iter_mut().flat_map(|run| std::mem::take(&mut run.calls)).collect();
        let reference = Self { old: old?, database: database?, calls, ..runs.swap_remove(0) };
        ensure!(reference.old != reference.upgraded, "an upgrade changes nothing");
        Ok(reference)
    }

    /// Runs a phase without a fault: its calls, and of a whole run also the machine, the maintainer scripts, and the calls of dpkg.
    fn run(fixture: &Fixture, phase: Phase) -> Result<Self> {
        let world = fixture.world(phase)?;
        world.machine.sh(&count(phase))?;
        let ended = PhaseEnd::of(phase, &world)?;
        let expected = [Some(0), Some(0), None, Some(4)][phase as usize];
        ensure!(ended.exit == expected && ended.is_over, "{}: {ended:?}", phase.key());
        let printed = world.machine.sh(COUNTED)?;
        let mut sections = printed.split("==\n");
        let calls = call::read(sections.next().unwrap_or_default());
        ensure!(!calls.is_empty(), "nothing was seen of the upgrader: {printed}");
        let mut reference = Self { calls: vec![(phase, calls)], ..Self::default() };
        if phase == Phase::Run {
            for script in sections.next().unwrap_or_default().lines().map(str::to_owned) {
                if !reference.scripts.contains(&script) {
                    reference.scripts.push(script);
                }
            }
            reference.dpkg = sections.map(call::read).collect();
            reference.upgraded = Inventory::collect(&world.machine, &[Section::Files])?;
        }
        Ok(reference)
    }
}
