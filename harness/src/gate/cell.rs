//! One upgrade of the gate, by the same procedure as in the matrix.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::machines::{Installed, Machines, TIMEOUT};
use super::options::NamedState;
use crate::machines::image::Debian;
use crate::machines::transcript::Transcript;
use crate::matrix::answer::Answer;
use crate::matrix::baseline::DataUnit;
use crate::matrix::check::{Check, Target};
use crate::matrix::record::{NONE, Place, Record};
use crate::matrix::upgrade::{Run, Subject, TestMachine, check_upgraded, perform, recorded};
use crate::observe::expectation::{End, Expectation};

/// What its cells belong to, in reports.
const SCENARIO: &str = "gate";

/// The upgrader's exit code for an upgrade that failed and was rolled back.
const ROLLED_BACK: i64 = 4;

/// A machine with an old version.
struct Candidate<'a> {
    machines: &'a Machines<'a>,
    machine: TestMachine<'a>,
    /// The machine with the candidate, if that could be installed.
    installed: Option<&'a Installed>,
}

impl Machines<'_> {
    /// Upgrades a machine in a state from an old version to the candidate, and saves the record in a directory of its own. Only if
    /// that fails it is an error: all else that goes wrong is in the record.
    pub(super) fn upgrade(
        &self,
        debian: Debian,
        from: &str,
        named: &NamedState,
        installed: &Result<Installed>,
        cells: &Path,
    ) -> Result<Record> {
        let to = installed.as_ref().map_or("candidate", |installed| &installed.set.version);
        let mut name = format!("{SCENARIO}::{from}-to-{to}");
        if named.path.is_some() {
            name = format!("{name}::{}", named.name);
        }
        let name = format!("{name}::{debian}");
        let directory = cells.join(name.replace("::", "--").replace([':', '/'], "-"));
        let place = Place {
            scenario: SCENARIO.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            debian: debian.to_string(),
            state: named.name.clone(),
            fault: NONE.to_owned(),
            answer: Answer::Unasked.key().to_owned(),
        };
        let again = self.options.again(from, debian, named);
        let explanation = self.explanation(debian, from, to, named);
        let record = Record { cell: name, place, explanation, again, ..Record::default() };
        let record = recorded(record, &directory, |record| {
            if let Err(error) = installed {
                record.failures.push(format!("the candidate cannot be installed on a new machine: {error:#}"));
            }
            let (mut world, version) = self.old(debian, from).context("no machine with the old version can be made")?;
            record.place.from = version;
            named.state.bring_about(&mut world)?;
            self.publish_candidate(&mut world, debian)?;
            let expected = Expectation { differs: self.options.differs(debian), ..Expectation::default() };
            let machine = TestMachine {
                world,
                upgrader: self.upgrader.name.clone(),
                services: self.options.services(),
                state: &named.state,
                expected: expected.or(&named.state.expect),
                loses_power: false,
                data: DataUnit::Directory,
            };
            let installed = installed.as_ref().ok();
            perform(&mut Candidate { machines: self, machine, installed }, None, record, &directory)
        })?;
        record.save(&directory)?;
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
                "A machine of {title} is upgraded to the candidate, and compared with one on which it was installed."
            ),
            format!("A machine with Debian {debian} has {title} {from}; {to} is published for it."),
        ];
        if !state.description.is_empty() {
            paragraphs.push(format!("Its state, {name}: {}", state.description.trim()));
        }
        paragraphs.push(format!("`{} --yes` is started, which does not ask.", self.upgrader.name));
        paragraphs
    }
}

impl Subject for Candidate<'_> {
    fn test_machine(&self) -> &TestMachine<'_> {
        &self.machine
    }

    fn start(&self) -> Result<Transcript> {
        let command = self.machine.world.machine.command(&[&self.machine.upgrader, "--yes"]);
        command.in_shell(&self.machine.state.shell).timeout(TIMEOUT).run()
    }

    fn target(&self) -> Result<Target> {
        Ok(self.installed.context("the candidate cannot be installed")?.target.clone())
    }

    fn ended(&mut self, run: &Run, record: &mut Record) -> Result<Option<End>> {
        if let Some(installed) = self.installed {
            let same = run.baseline.state.packages == installed.target.packages;
            let findings = if same { vec!["it has every package of it already".to_owned()] } else { Vec::new() };
            record.note(("there is something to upgrade", findings));
        }
        Ok(Some(match (self.machine.expected.end(), record.exit) {
            // A machine that was rolled back lacks the new release: compare it with the old one.
            (End::Upgraded, Some(ROLLED_BACK)) => End::RolledBack,
            (end, _) => end,
        }))
    }

    fn finish(&mut self, end: End, run: &Run, record: &mut Record) -> Result<()> {
        if end == End::Upgraded && self.installed.is_some() {
            record.note(run.trace.restarts());
            record.note(run.trace.skipped_hooks());
            check_upgraded(self, &run.baseline, &self.machine.expected, record)?;
            record.note(self.ready()?);
        }
        if end == self.machine.expected.end()
            && let Some(check) = self.machine.state.check(&self.machine.world.machine)?
        {
            record.note(check);
        }
        Ok(())
    }
}

impl Candidate<'_> {
    /// Runs the commands with which the vendor says that a service is ready.
    fn ready(&self) -> Result<Check> {
        let mut findings = Vec::new();
        let services = &self.machines.options.product.definition.services;
        for name in services.order.iter().filter(|name| !self.machine.expected.down.contains(name)) {
            let Some(ready) = services.ready(name) else { continue };
            let words: Vec<&str> = ready.command.iter().map(String::as_str).collect();
            let asked = self.machine.world.machine.command(&words).run()?;
            if asked.exit != 0 {
                findings.push(format!("{name}: {}", asked.to_string().trim_end()));
            }
        }
        Ok(("every service that has a readiness command is ready", findings))
    }
}
