//! One upgrade.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::NamedState;
use super::machines::{Installed, Machines, PATIENCE};
use crate::at_once::both;
use crate::machines::image::Debian;
use crate::machines::machine::Machine;
use crate::machines::world::World;
use crate::matrix::answer::Answer;
use crate::matrix::before::Before;
use crate::matrix::check::{Check, FAILED_UNITS, Upgraded};
use crate::matrix::course::Course;
use crate::matrix::expectation::{End, Expectation};
use crate::matrix::own::{Data, Own};
use crate::matrix::record::{NONE, Place, Record};
use crate::matrix::run::millis;
use crate::observe::observation::{Mark, SystemState};

/// What its cells belong to, in reports.
const SCENARIO: &str = "gate";

/// The upgrader's exit code for an upgrade that failed and was put back.
const ROLLED_BACK: i64 = 4;

impl Machines<'_> {
    /// Upgrades a machine in a state from an old version to the candidate, and keeps what is known of it in a directory of its own.
    ///
    /// # Errors
    /// If that cannot be written. All else that goes wrong is in the record.
    pub(super) fn upgrade(
        &self,
        debian: Debian,
        from: &str,
        state: &NamedState,
        installed: &Result<Installed>,
        cells: &Path,
    ) -> Result<Record> {
        let start = Instant::now();
        let to = installed.as_ref().map_or("candidate", |installed| &installed.version);
        let mut name = format!("{SCENARIO}::{from}-to-{to}");
        if state.path.is_some() {
            name = format!("{name}::{}", state.name);
        }
        let name = format!("{name}::{debian}");
        let directory = cells.join(name.replace("::", "--").replace([':', '/'], "-"));
        let place = Place {
            scenario: SCENARIO.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            debian: debian.to_string(),
            state: state.name.clone(),
            fault: NONE.to_owned(),
            answer: Answer::Unasked.key().to_owned(),
        };
        let again = self.options.again(from, debian, state);
        let mut record = Record::new(name, place, self.explanation(debian, from, to, state), again);
        if let Err(error) = installed {
            record.failures.push(format!("the candidate is not good on a new machine: {error:#}"));
        }
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        if let Err(error) = self.tried(debian, from, state, installed.as_ref().ok(), &directory, &mut record) {
            record.failures.push(format!("{error:#}"));
        }
        record.took = millis(start.elapsed());
        record.keep(&directory)?;
        Ok(record)
    }

    fn explanation(
        &self,
        debian: Debian,
        from: &str,
        to: &str,
        NamedState { name, state, .. }: &NamedState,
    ) -> Vec<String> {
        let title = &self.options.product.definition.name;
        let mut paragraphs = vec![
            format!(
                "Machines of {title} come from what they have to the candidate, and are then as if it had been installed."
            ),
            format!("A machine with Debian {debian} has {title} {from}; {to} is published for it."),
        ];
        if !state.description.is_empty() {
            paragraphs.push(format!("Its state, {name}: {}", state.description.trim()));
        }
        paragraphs.push(format!("`{} --yes` is started, which asks nobody.", self.upgrader.name));
        paragraphs
    }

    fn tried(
        &self,
        debian: Debian,
        from: &str,
        NamedState { state, .. }: &NamedState,
        installed: Option<&Installed>,
        directory: &Path,
        record: &mut Record,
    ) -> Result<()> {
        let (mut world, version) = self.old(debian, from).context("there is no machine with the old version")?;
        record.place.from = version;
        state.bring_about(&mut world)?;
        self.publish_candidate(&mut world, debian)?;
        let expected =
            Expectation { differs: self.options.differs(debian), ..Expectation::default() }.or(&state.expect);
        let ran = self.run(&world, state, installed, &expected, record);
        record.keep_logs(&world.machine, &self.upgrader.name, directory)?;
        ran
    }

    fn run(
        &self,
        world: &World,
        state: &crate::matrix::state::State,
        installed: Option<&Installed>,
        expected: &Expectation,
        record: &mut Record,
    ) -> Result<()> {
        let (machine, services) = (&world.machine, self.options.services());
        if let Some(installed) = installed {
            let same = SystemState::of(machine, &services)?.packages == installed.packages;
            let findings = if same { vec!["it has every package of it already".to_owned()] } else { Vec::new() };
            record.look(("there is something to upgrade", findings));
        }
        let before = Before::of(machine, &services, expected)?;
        let own = Own::of(machine)?;
        let [failed, mark] = machine.ask([FAILED_UNITS, &Mark::script()])?;
        let failed_before: Vec<String> = failed.lines().map(str::to_owned).collect();
        let mark = Mark::read(&mark)?;
        let begin = Instant::now();
        state.start_beside(machine)?;
        let command = machine.command(&[&self.upgrader.name, "--yes"]);
        let transcript = command.in_shell(&state.shell).patience(PATIENCE).run()?;
        record.run = millis(begin.elapsed());
        record.exit = Some(transcript.exit);
        record.screen = world.redacted(&transcript.screen);
        record.expect(&transcript, expected);
        let course = Course::of(&self.upgrader.name, &mark, machine, &services)?;
        record.timeline.clone_from(&course.timeline);
        // What was put back lacks all that is new: that is no news.
        let end = match (expected.end(), record.exit) {
            (End::Upgraded, Some(ROLLED_BACK)) => End::RolledBack,
            (end, _) => end,
        };
        match (end, installed) {
            (End::Upgraded, Some(installed)) => {
                record.look(course.restarts());
                let files = machine.sh(&format!("dpkg-query --listfiles {}", self.upgrader.name))?;
                record.look(course.hooks_left_out(files.lines()));
                let look = || self.look(machine, installed, expected, (&failed_before, &mark));
                let (looked, kept) = both(look, || own.checks(machine, Data::Directories));
                looked?.into_iter().for_each(|check| record.look(check));
                kept?.into_iter().for_each(|check| record.look(check));
                record.look(self.ready(machine, expected)?);
            }
            (End::Unchanged, _) => record.look(("nothing was changed", before.changes(machine, false)?)),
            (End::RolledBack, _) => record.look(("everything was put back as it was", before.left(machine)?)),
            (End::Upgraded, None) | (End::Stuck, _) => {}
        }
        if end == expected.end()
            && let Some(check) = state.check(machine)?
        {
            record.look(check);
        }
        Ok(())
    }

    /// Looks at everything on a machine that has the candidate.
    fn look(
        &self,
        machine: &Machine,
        installed: &Installed,
        expect: &Expectation,
        (failed_before, since): (&[String], &Mark),
    ) -> Result<Vec<Check>> {
        // Services of the world outside do not say which version they are.
        let services: Vec<_> = self.options.services().into_iter().map(|name| (name, None)).collect();
        let upgraded = Upgraded {
            machine,
            upgrader: &self.upgrader.name,
            packages: &installed.packages,
            services: &services,
            expect,
            installed: &installed.portrait,
            own: &installed.own,
            next_debian: None,
            failed_before,
            since,
        };
        upgraded.checks()
    }

    /// Asks the services themselves, in the vendor's own words.
    fn ready(&self, machine: &Machine, expect: &Expectation) -> Result<Check> {
        let mut findings = Vec::new();
        let services = &self.options.product.definition.services;
        for name in services.order().iter().filter(|name| !expect.down.contains(name)) {
            let Some(ready) = services.ready(name) else { continue };
            let words: Vec<&str> = ready.command.iter().map(String::as_str).collect();
            let asked = machine.command(&words).run()?;
            if asked.exit != 0 {
                findings.push(format!("{name}: {}", asked.to_string().trim_end()));
            }
        }
        Ok(("every service that can be asked says that it is ready", findings))
    }
}
