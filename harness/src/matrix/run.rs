//! Prepares the machine of a cell or a defect, and runs the upgrader on it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use upgrader::model::step::Step;

use super::answer::QUESTION;
use super::baseline::DataUnit;
use super::cell::Cell;
use super::check::Target;
use super::database::{migrated, unchanged};
use super::installed;
use super::record::Record;
use super::run_trace::undeclared_services;
use super::shown::{without_debians_packages, without_exit};
use super::upgrade::{Run, Subject, TestMachine, check_upgraded, perform, recorded};
use crate::faults::fault::FaultAtStep;
use crate::faults::trigger::Trigger;
use crate::machines::database;
use crate::machines::machine::{Command, Machine};
use crate::machines::product_machine;
use crate::machines::transcript::Transcript;
use crate::machines::world::World;
use crate::observe::expectation::{End, Expectation};
use crate::observe::inventory::{Inventory, Section};
use crate::packages::binaries;
use crate::packages::package::Package;
use crate::packages::release::Release;
use crate::packages::repository::ORIGIN;
use crate::packages::shipped::{SERVICES, XIVO};

/// Above this an exit code says which signal ended a program, as in a shell.
const SIGNALLED: i64 = 128;

/// The timeout of an upgrade to the next Debian, with some hundred packages from the mirror.
const NEXT_DEBIAN: Duration = Duration::from_secs(20 * 60);

/// Where a machine prefers the packages of the product's vendor to Debian's.
const PREFERENCES: &str = "/etc/apt/preferences.d/vendor";

/// This file exists once a machine is about to lose its power.
const POWER_CUT: &str = "/run/power-cut";

/// The result of a cell.
#[derive(Debug)]
pub struct Outcome {
    /// Its record.
    pub record: Record,
    /// What is compared with its snapshot.
    pub document: String,
}

/// What is done with the machine of a run.
pub type Visit<'a> = &'a mut dyn FnMut(&Machine) -> Result<()>;

/// The machine of a cell.
struct Prepared<'a> {
    cell: &'a Cell,
    machine: TestMachine<'a>,
    /// The new release as it is published.
    release: Release,
    upgrader: Package,
    /// The database as it was, if the machine has one.
    database: Option<String>,
    document: String,
}

impl Cell {
    /// Runs it on a machine of its own. What is not as expected is in the record.
    pub fn run(&self) -> Result<Outcome> {
        self.run_then(&mut |_| Ok(()))
    }

    /// The same, and calls `visit` before the machine is removed.
    pub fn run_then(&self, visit: Visit<'_>) -> Result<Outcome> {
        let (mut document, directory) = (String::new(), self.kept_in());
        let (place, explanation, again) = (self.place(), self.explanation(), self.again());
        let record = Record { cell: self.name(), place, explanation, again, ..Record::default() };
        let record = recorded(record, &directory, |record| {
            let (mut prepared, local) = Prepared::new(self, None).context("the run could not begin")?;
            let ran = perform(&mut prepared, Some(local), record, &directory);
            document = std::mem::take(&mut prepared.document);
            visit(&prepared.machine.world.machine)?;
            ran
        })?;
        Ok(Outcome { record, document })
    }

    /// Stops its run in the middle of a step, or before the run if no step is named, and calls `visit`. Then the machine is removed.
    pub fn stop_at(&self, step: Option<Step>, visit: Visit<'_>) -> Result<()> {
        let Some(step) = step else { return visit(&Prepared::new(self, None)?.0.machine.world.machine) };
        ensure!(can_stop_at(step), "a run cannot be stopped in the step {step}; it can in those before and after it");
        let trigger = Trigger { name: "stop", step };
        let (prepared, _) = Prepared::new(self, Some(trigger))?;
        let machine = &prepared.machine.world.machine;
        trigger.install(machine, "touch /run/stopped; sleep infinity", false)?;
        self.state.start_beside(machine)?;
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let end_sender = sender.clone();
            scope.spawn(move || sender.send(machine.sh("until test -e /run/stopped; do sleep 0.05; done").map(drop)));
            let prepared = &prepared;
            scope.spawn(move || {
                let ended = prepared.command().run().map(|run| format!("the run ended before it came there:\n{run}"));
                end_sender.send(Err(anyhow!(ended.unwrap_or_else(|error| error.to_string()))))
            });
            let visited = receiver.recv().context("the run could not be followed")?.and_then(|()| visit(machine));
            machine.cut_power()?;
            visited
        })
    }

    /// Where its record and its logs are.
    pub fn kept_in(&self) -> PathBuf {
        let cells = if self.defect.is_some() { "defects" } else { "matrix/cells" };
        binaries::target().join(cells).join(self.directory())
    }
}

impl<'a> Prepared<'a> {
    /// A machine as it is in the field, and the new release published for it; and what is local to it.
    fn new(cell: &'a Cell, stop: Option<Trigger>) -> Result<(Self, Inventory)> {
        let today = product_machine::upgrader()?;
        let at = |step| cell.fault.as_ref().is_some_and(|fault| fault.step == step);
        // A release that changes the database brings its migration with a newer upgrader. Before a fault that one is installed already: a
        // rollback does not remove it, so the machine would differ.
        let is_old = (cell.has_database && cell.fault.is_none())
            || cell.state.old_upgrader
            || at(Step::SelfUpdate)
            || stop.is_some_and(|stop| stop.step == Step::SelfUpdate);
        let mut world = Self::old_machine(cell, is_old, &today)?;
        if let Some(defect) = &cell.defect {
            defect.install_old(&mut world)?;
        }
        cell.state.bring_about(&mut world)?;
        if let Some(next) = cell.next_debian {
            // Vendors advise to pin their repository: Debian has packages of the same names.
            world.machine.sh(&format!(
                "sed 's/{}/{next}/' /etc/apt/debian-sources/sources.list >/etc/apt/sources.list
                 printf 'Package: *\nPin: release o={ORIGIN}\nPin-Priority: 990\n' >{PREFERENCES}",
                cell.debian
            ))?;
        }
        let (mut release, upgrader) = Self::candidate(cell, today)?;
        if at(Step::Packages) {
            fault_trigger(Step::Packages).add_to_release(&mut release)?;
        }
        if let Some(stop) = stop.filter(|stop| stop.step == Step::Packages) {
            stop.add_to_release(&mut release)?;
        }
        world.publish(release.packages.iter().chain([&upgrader]))?;
        if let Some(defect) = &cell.defect {
            defect.inject(&world)?;
        }
        // Files that a fault adds and removes are not local data of the admin.
        let local = Inventory::collect(&world.machine, &[Section::Local])?;
        let database = if cell.has_database {
            database::copy(&world.machine)?;
            Some(database::dump(&world.machine)?)
        } else {
            None
        };
        if let Some(fault) = &cell.fault {
            inject(fault, &world)?;
        }
        if let Some(fault) = cell.state.repository {
            world.inject(fault)?;
        }
        let machine = TestMachine {
            world,
            upgrader: upgrader.name.clone(),
            services: SERVICES.to_vec(),
            state: &cell.state,
            expected: cell.expectation(),
            loses_power: cell.fault.as_ref().is_some_and(|fault| fault.fault.power_cut),
            data: DataUnit::File,
        };
        Ok((Self { cell, machine, database, release, upgrader, document: String::new() }, local))
    }

    /// A machine with the old release, and an upgrader that is of an earlier day or today's.
    fn old_machine(cell: &Cell, is_old: bool, today: &Package) -> Result<World> {
        let upgrader = if is_old { &product_machine::old_upgrader(&XIVO)? } else { today };
        if !cell.has_database {
            return product_machine::at_release(cell.debian, &cell.from, upgrader);
        }
        let old = cell.release(&cell.from)?;
        let brought = if is_old { &old } else { &cell.release(&cell.to)? };
        product_machine::with_database(cell.debian, &old, &database::upgrader(upgrader.clone(), brought)?)
    }

    /// The new release, and the upgrader that is published with it.
    fn candidate(cell: &Cell, today: Package) -> Result<(Release, Package)> {
        if let Some(defect) = &cell.defect {
            return Ok((defect.candidate.clone(), defect.upgrader(today)?));
        }
        let release = cell.release(&cell.to)?;
        let upgrader = if cell.has_database { database::upgrader(today, &release)? } else { today };
        Ok((release, upgrader))
    }

    /// The upgrader's command, with the answer.
    fn command(&self) -> Command<'_> {
        let mut command = self.machine.world.upgrade(self.cell.answer.arguments()).in_shell(&self.cell.state.shell);
        if self.cell.next_debian.is_some() {
            command = command.timeout(NEXT_DEBIAN);
        }
        if let Some(fault) = self.cell.fault.as_ref().filter(|fault| fault.is_injected() && fault.step == Step::Confirm)
        {
            let cut = fault.fault.power_cut;
            command = command.run_at_prompt(QUESTION, &fault_trigger(Step::Confirm).program());
            // A signal or a power cut ends the run before the answer.
            if cut || self.machine.expected.exit() > SIGNALLED {
                return command;
            }
        }
        self.cell.answer.given(command)
    }

    /// Whether the fault happened; `None` if only the end of the run shows it.
    fn fault_happened(&self) -> Result<Option<bool>> {
        let Some(fault) = &self.cell.fault else { return Ok(None) };
        if fault.is_injected() && !(fault.step == Step::Download && fault.fault.power_cut) {
            return fault_trigger(fault.step).has_fired(&self.machine.world.machine).map(Some);
        }
        let of_answers = fault.fault.repository.is_some_and(|fault| !fault.is_of_the_whole());
        Ok(of_answers.then(|| self.machine.world.fault_was_injected()))
    }

    /// Ends the fault, and runs the commands with which the admin repairs the machine.
    fn fix(&mut self) -> Result<()> {
        if let Some(fault) = &self.cell.fault {
            self.machine.world.clear_fault()?;
            fault_trigger(fault.step).remove(&self.machine.world.machine)?;
            self.machine.world.machine.sh(fault.fix()).context("the fault cannot be fixed")?;
        }
        Ok(())
    }

    /// Runs the upgrader again after a run that did not upgrade the machine, when the fault and the state are fixed.
    fn again(&mut self, run: &Run, record: &mut Record) -> Result<()> {
        self.fix()?;
        self.machine.world.clear_fault()?;
        self.machine.world.machine.sh(&self.cell.state.fix).context("the state cannot be fixed")?;
        if let Some(before) = &self.database
            && self.machine.expected.end() != End::Stuck
        {
            record.note(unchanged(before, &self.machine.world.machine)?);
        }
        let expected = self.cell.expectation_again();
        let transcript = self.machine.world.upgrade(&["--yes"]).in_shell(&self.cell.state.shell).run()?;
        record.expect(&transcript, &expected);
        let end = transcript.screen.trim_end().rsplit("\n\n").next().unwrap_or_default().to_owned();
        let _ = write!(
            self.document,
            "\nAnd when it is started again:\n{}\n[exit code {}]\n",
            self.machine.world.redacted(&end),
            transcript.exit
        );
        self.check_upgraded(run, &expected, record)
    }

    /// Compares the upgraded machine with what it has to be.
    fn check_upgraded(&self, run: &Run, expected: &Expectation, record: &mut Record) -> Result<()> {
        record.note(undeclared_services(&self.release));
        check_upgraded(self, &run.baseline, expected, record)?;
        if let Some(check) = self.cell.state.check(&self.machine.world.machine)? {
            record.note(check);
        }
        if self.database.is_some() {
            record.note(migrated(&self.machine.world.machine, &self.release)?);
        }
        Ok(())
    }

    /// Writes what is compared with the snapshot.
    fn describe(&mut self, run: &Run) {
        let cut = self.machine.loses_power;
        for paragraph in &self.cell.explanation()[1..] {
            let _ = writeln!(self.document, "{}", paragraph.replace(&format!(" with Debian {}", self.cell.debian), ""));
        }
        let shown = if cut { without_exit(&run.transcript) } else { run.transcript.to_string() };
        let shown = self.machine.world.redacted(&shown);
        let shown = if self.cell.next_debian.is_some() { without_debians_packages(&shown) } else { shown };
        let _ = write!(self.document, "\n{shown}\n");
        let events = &run.trace.events;
        // After a power cut services start as at every boot.
        let _ = if events.hooks.is_empty() && (cut || events.starts.is_empty()) {
            writeln!(self.document, "No hook ran{}.", if cut { "" } else { ", and no service was started" })
        } else if cut {
            events.hooks_in(&mut self.document)
        } else {
            write!(self.document, "{events}")
        };
    }
}

impl Subject for Prepared<'_> {
    fn test_machine(&self) -> &TestMachine<'_> {
        &self.machine
    }

    fn start(&self) -> Result<Transcript> {
        let machine = &self.machine.world.machine;
        let Some(fault) = self.cell.fault.as_ref().filter(|fault| fault.is_injected()) else {
            return self.command().run();
        };
        let cut = fault.fault.power_cut;
        let hold = (fault.step == Step::Download).then(|| self.machine.world.hold_packages());
        std::thread::scope(|scope| {
            let run = scope.spawn(|| if cut { self.command().run_until_power_loss() } else { self.command().run() });
            if let Some(hold) = &hold {
                hold.asked()?;
                if !cut {
                    machine.command(&[&fault_trigger(fault.step).program()]).run()?;
                }
            } else if cut {
                machine.wait_until(&format!("test -e {POWER_CUT}"))?;
            }
            if cut {
                machine.cut_power()?;
            }
            drop(hold);
            let transcript = run.join().map_err(|_| anyhow!("the run could not be followed"))??;
            if cut {
                machine.power_on()?;
            }
            if fault.step == Step::Packages {
                // The upgrader may have been killed while dpkg still works on its last package.
                machine.sh("timeout 60 sh -c 'while pgrep -x dpkg >/dev/null; do sleep 0.05; done'")?;
            }
            anyhow::Ok(transcript)
        })
    }

    fn target(&self) -> Result<Target> {
        let debian = self.cell.next_debian.unwrap_or(self.cell.debian);
        let installed = if let Some(defect) = &self.cell.defect {
            defect.installed(debian, &self.upgrader)?
        } else {
            let release = self.cell.release(&self.cell.to)?;
            installed::inventory(debian, &release, &self.upgrader, self.cell.has_database)?
        };
        let published = self.release.packages.iter().chain([&self.upgrader]);
        let packages: BTreeMap<_, _> =
            published.map(|package| (package.name.clone(), package.version.clone())).collect();
        let next_debian = self.cell.next_debian;
        Ok(Target { packages, reports_versions: true, installed, own: Vec::new(), next_debian })
    }

    fn ended(&mut self, run: &Run, record: &mut Record) -> Result<Option<End>> {
        self.describe(run);
        if let Some(happened) = self.fault_happened()? {
            let finding = (!happened).then(|| "it did not".to_owned());
            record.note(("the fault happened", finding.into_iter().collect()));
        }
        // After a failed run of a defect nothing else is compared.
        Ok((self.cell.defect.is_none() || record.passed()).then(|| self.machine.expected.end()))
    }

    fn finish(&mut self, end: End, run: &Run, record: &mut Record) -> Result<()> {
        if end != End::Upgraded {
            return self.again(run, record);
        }
        if self.cell.fault.is_none() {
            record.note(run.trace.restarts());
            record.note(run.trace.skipped_hooks());
        }
        self.fix()?;
        self.check_upgraded(run, &self.machine.expected, record)
    }
}

/// Prepares a fault for its step.
fn inject(fault: &FaultAtStep, world: &World) -> Result<()> {
    let machine = &world.machine;
    for script in [&fault.fault.prepare, &fault.at.prepare] {
        machine.sh(script).context("the fault cannot be prepared")?;
    }
    if let Some(fault) = fault.repository() {
        world.inject(fault)?;
    }
    if fault.is_injected() {
        let cut = format!("touch {POWER_CUT}; sleep infinity");
        let action = if fault.fault.power_cut { &cut } else { &fault.fault.inject };
        fault_trigger(fault.step).install(machine, action, fault.fault.persists)?;
    }
    Ok(())
}

/// True if a run can be stopped in a step: where something on the machine can hold it.
pub fn can_stop_at(step: Step) -> bool {
    matches!(
        step,
        Step::Refresh
            | Step::Preflight
            | Step::SelfUpdate
            | Step::PreUpgradeHooks
            | Step::Packages
            | Step::PostUpgradeHooks
            | Step::Restart
            | Step::Verify
    )
}

/// Where a fault is injected.
fn fault_trigger(step: Step) -> Trigger {
    Trigger { name: "fault-trigger", step }
}
