//! How a cell runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use upgrader::model::step::Step;

use super::answer::QUESTION;
use super::before::Before;
use super::cell::Cell;
use super::check::{FAILED_UNITS, Upgraded};
use super::course::{self, Course};
use super::database::{migrated, unchanged};
use super::expectation::{End, Expectation};
use super::fault::Strike;
use super::own::{Data, Own};
use super::point::Point;
use super::portrait::Portrait;
use super::record::Record;
use super::shown::{without_debians_packages, without_exit};
use crate::at_once::both;
use crate::machines::database;
use crate::machines::machine::{Command, Machine};
use crate::machines::product_machine;
use crate::machines::transcript::Transcript;
use crate::machines::world::World;
use crate::observe::observation::Mark;
use crate::packages::binaries;
use crate::packages::package::Package;
use crate::packages::release::Release;
use crate::packages::repository::ORIGIN;
use crate::packages::shipped::{SERVICES, XIVO};

/// Above this an exit code says which signal ended a program, as shells tell it.
const SIGNALLED: i64 = 128;

/// How long the way to the next Debian may take: a few hundred packages come from the mirror, and all are unpacked.
const NEXT_DEBIAN: Duration = Duration::from_secs(20 * 60);

/// Where a machine is told to prefer the packages of the product's vendor to Debian's.
const PREFERENCES: &str = "/etc/apt/preferences.d/vendor";

/// There once a machine is about to lose its power.
const POWER_CUT: &str = "/run/power-cut";

/// A cell that ran.
#[derive(Debug)]
pub struct Ran {
    /// What is known of it.
    pub record: Record,
    /// What is compared with its snapshot.
    pub document: String,
}

/// What somebody does on a machine.
pub type Visit<'a> = &'a mut dyn FnMut(&Machine) -> Result<()>;

/// A cell under way.
struct Running<'a> {
    cell: &'a Cell,
    world: World,
    own: Own,
    /// The new release as it is published.
    release: Release,
    upgrader: Package,
    /// The database as it was, if the machine has one.
    database: Option<String>,
    /// Units that have failed before the upgrader is started.
    failed_before: Vec<String>,
    /// When it is started.
    mark: Mark,
    document: String,
    record: Record,
}

impl Cell {
    /// Runs it on a machine of its own. What is not as expected is in the record.
    ///
    /// # Errors
    /// If it could not be found out.
    pub fn run(&self) -> Result<Ran> {
        self.run_then(&mut |_| Ok(()))
    }

    /// The same, and then a visit of the machine before it is gone.
    pub fn run_then(&self, visit: Visit<'_>) -> Result<Ran> {
        let start = Instant::now();
        // From here on it is known that the cell was begun, even if it is killed.
        let directory = self.kept_in();
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let mut running = match Running::start(self, None) {
            Ok(running) => running,
            Err(error) => return Ok(self.never_ran(&error, start)),
        };
        if let Err(error) = running.go() {
            running.record.failures.push(format!("{error:#}"));
        }
        if let Err(error) = running.record.keep_logs(&running.world.machine, &XIVO.package(), &directory) {
            running.record.failures.push(format!("its logs could not be kept: {error:#}"));
        }
        visit(&running.world.machine)?;
        let Running { mut record, document, .. } = running;
        record.took = millis(start.elapsed());
        Ok(Ran { record, document })
    }

    /// What is known of it if its machine could not be made ready.
    fn never_ran(&self, error: &anyhow::Error, start: Instant) -> Ran {
        let mut record = Record::new(self.name(), self.place(), self.explanation(), self.again());
        record.failures.push(format!("the run could not begin: {error:#}"));
        record.took = millis(start.elapsed());
        Ran { record, document: String::new() }
    }

    /// Stops its machine in the middle of a step, where faults strike, or before the run if none is named; then comes a visit, and then
    /// the machine is gone.
    ///
    /// # Errors
    /// If the run ends before it comes there, or cannot be stopped there.
    pub fn stop_at(&self, step: Option<Step>, visit: Visit<'_>) -> Result<()> {
        let Some(step) = step else { return visit(&Running::start(self, None)?.world.machine) };
        ensure!(can_stop_at(step), "a run cannot be stopped in the step {step}; it can in those before and after it");
        let point = Point { name: "stop", step };
        let running = Running::start(self, Some(point))?;
        let machine = &running.world.machine;
        point.arm(machine, "touch /run/stopped; sleep infinity", false)?;
        self.state.start_beside(machine)?;
        std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let tell_end = tell.clone();
            scope.spawn(move || tell.send(machine.sh("until test -e /run/stopped; do sleep 0.05; done").map(drop)));
            let running = &running;
            scope.spawn(move || {
                let ended = running.command().run().map(|run| format!("the run ended before it came there:\n{run}"));
                tell_end.send(Err(anyhow!(ended.unwrap_or_else(|error| error.to_string()))))
            });
            let visited = told.recv().context("nobody waits")?.and_then(|()| visit(machine));
            machine.cut_the_power()?;
            visited
        })
    }

    /// Where its record and its logs are.
    #[must_use]
    pub fn kept_in(&self) -> PathBuf {
        let cells = if self.defect.is_some() { "defects" } else { "matrix/cells" };
        binaries::target().join(cells).join(self.directory())
    }
}

impl<'a> Running<'a> {
    /// A machine as it is in the field, and the new release published for it.
    fn start(cell: &'a Cell, stop: Option<Point>) -> Result<Self> {
        let today = product_machine::upgrader()?;
        let at = |step| cell.strike.as_ref().is_some_and(|strike| strike.step == step);
        // A release that changes the database brings its migration with an upgrader of its own. Where something goes wrong that has come
        // before: it stays when the machine goes back, which then is not what it was.
        let is_old = (cell.has_database && cell.strike.is_none())
            || cell.state.old_upgrader
            || at(Step::SelfUpdate)
            || stop.is_some_and(|stop| stop.step == Step::SelfUpdate);
        let mut world = Self::old_machine(cell, is_old, &today)?;
        if let Some(defect) = &cell.defect {
            defect.install_old(&mut world)?;
        }
        cell.state.bring_about(&mut world)?;
        if let Some(next) = cell.next_debian {
            // As vendors advise, the product's packages stay those of its vendor: Debian has some of the same names.
            world.machine.sh(&format!(
                "sed 's/{}/{next}/' /etc/apt/debian-sources/sources.list >/etc/apt/sources.list
                 printf 'Package: *\nPin: release o={ORIGIN}\nPin-Priority: 990\n' >{PREFERENCES}",
                cell.debian
            ))?;
        }
        let (mut release, upgrader) = Self::candidate(cell, today)?;
        if at(Step::Packages) {
            strike_point(Step::Packages).arm_package(&mut release.packages)?;
        }
        if let Some(stop) = stop.filter(|stop| stop.step == Step::Packages) {
            stop.arm_package(&mut release.packages)?;
        }
        world.publish(release.packages.iter().chain([&upgrader]))?;
        if let Some(defect) = &cell.defect {
            defect.misbehave(&world)?;
        }
        // What a fault brings with it, and takes away again, is not the admin's.
        let own = Own::of(&world.machine)?;
        let database = if cell.has_database {
            database::copy(&world.machine)?;
            Some(database::portrait(&world.machine)?)
        } else {
            None
        };
        if let Some(strike) = &cell.strike {
            arm(strike, &world)?;
        }
        if let Some(fault) = cell.state.repository {
            world.misbehave(fault)?;
        }
        let [failed, mark] = world.machine.ask([FAILED_UNITS, &Mark::script()])?;
        let (failed_before, mark) = (failed.lines().map(str::to_owned).collect(), Mark::read(&mark)?);
        let record = Record::new(cell.name(), cell.place(), cell.explanation(), cell.again());
        Ok(Self { cell, world, own, database, failed_before, mark, release, upgrader, document: String::new(), record })
    }

    /// A machine with the old release, and an upgrader that is of an earlier day or today's.
    fn old_machine(cell: &Cell, is_old: bool, today: &Package) -> Result<World> {
        let upgrader = if is_old { &product_machine::old_upgrader()? } else { today };
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

    fn go(&mut self) -> Result<()> {
        for paragraph in &self.cell.explanation()[1..] {
            let _ = writeln!(self.document, "{}", paragraph.replace(&format!(" with Debian {}", self.cell.debian), ""));
        }
        let expected = self.cell.expectation();
        let before = Before::of(&self.world.machine, &SERVICES, &expected)?;
        let begin = Instant::now();
        let transcript = self.first_run()?;
        self.record.run = millis(begin.elapsed());
        if self.cell.strike.as_ref().is_some_and(|strike| strike.strikes() && strike.step == Step::Packages) {
            // The upgrader may be gone, and dpkg at its last package.
            self.world.machine.sh("timeout 60 sh -c 'while pgrep -x dpkg >/dev/null; do sleep 0.05; done'")?;
        }
        self.record.screen = self.world.redacted(&transcript.screen);
        let cut = self.cell.strike.as_ref().is_some_and(|strike| strike.fault.power_cut);
        if !cut {
            self.record.exit = Some(transcript.exit);
            self.record.expect(&transcript, &expected);
        }
        let course = Course::of(&self.upgrader.name, &self.mark, &self.world.machine, &SERVICES)?;
        self.record.timeline.clone_from(&course.timeline);
        let happened = &course.happened;
        let shown = self.world.redacted(&if cut { without_exit(&transcript) } else { transcript.to_string() });
        let shown = if self.cell.next_debian.is_some() { without_debians_packages(&shown) } else { shown };
        let _ = write!(self.document, "\n{shown}\n");
        // After a power cut services start as at every boot.
        let _ = if happened.hooks.is_empty() && (cut || happened.starts.is_empty()) {
            writeln!(self.document, "No hook ran{}.", if cut { "" } else { ", and no service was started" })
        } else if cut {
            happened.hooks_in(&mut self.document)
        } else {
            write!(self.document, "{happened}")
        };
        if let Some(went_wrong) = self.went_wrong()? {
            self.record.look(("what goes wrong went wrong", not(went_wrong, "it never did")));
        }
        if self.cell.defect.is_some() && !self.record.passed() {
            // What comes of a run that failed is no news.
            return Ok(());
        }
        match expected.end() {
            End::Upgraded => {
                if self.cell.strike.is_none() {
                    self.record.look(course.restarts());
                    let files = self.upgrader.files.iter().map(|file| file.path.as_str());
                    self.record.look(course.hooks_left_out(files));
                }
                self.mend()?;
                self.look_at_the_upgraded(&expected)
            }
            End::Unchanged => {
                let changed = before.changes(&self.world.machine, cut)?;
                self.record.look(("nothing was changed", changed));
                self.again()
            }
            End::RolledBack => {
                let left = before.left(&self.world.machine)?;
                self.record.look(("everything was put back as it was", left));
                self.again()
            }
            End::Stuck => self.again(),
        }
    }

    /// The run that everything is about.
    fn first_run(&self) -> Result<Transcript> {
        let machine = &self.world.machine;
        self.cell.state.start_beside(machine)?;
        let Some(strike) = self.cell.strike.as_ref().filter(|strike| strike.strikes()) else {
            return self.command().run();
        };
        let cut = strike.fault.power_cut;
        let hold = (strike.step == Step::Download).then(|| self.world.hold_packages());
        std::thread::scope(|scope| {
            let run =
                scope.spawn(|| if cut { self.command().run_while_the_power_lasts() } else { self.command().run() });
            if let Some(hold) = &hold {
                hold.asked()?;
                if !cut {
                    machine.command(&[&strike_point(strike.step).program()]).run()?;
                }
            } else if cut {
                machine.sh(&format!("timeout 120 sh -c 'until test -e {POWER_CUT}; do sleep 0.02; done'"))?;
            }
            if cut {
                machine.cut_the_power()?;
            }
            drop(hold);
            let transcript = run.join().map_err(|_| anyhow!("the run could not be followed"))??;
            if cut {
                machine.power_on()?;
            }
            Ok(transcript)
        })
    }

    /// The upgrader, with the person before it.
    fn command(&self) -> Command<'_> {
        let mut command = self.world.upgrade(self.cell.answer.arguments()).in_shell(&self.cell.state.shell);
        if self.cell.next_debian.is_some() {
            command = command.patience(NEXT_DEBIAN);
        }
        if let Some(strike) =
            self.cell.strike.as_ref().filter(|strike| strike.strikes() && strike.step == Step::Confirm)
        {
            let cut = strike.fault.power_cut;
            command = command.strike(QUESTION, &strike_point(Step::Confirm).program());
            // Whom a signal or a power cut has ended nobody answers.
            if cut || self.cell.expectation().exit() > SIGNALLED {
                return command;
            }
        }
        self.cell.answer.given(command)
    }

    /// Whether what goes wrong went wrong; `None` if only what is expected of the run can tell.
    fn went_wrong(&self) -> Result<Option<bool>> {
        let Some(strike) = &self.cell.strike else { return Ok(None) };
        if strike.strikes() && !(strike.step == Step::Download && strike.fault.power_cut) {
            return strike_point(strike.step).is_done(&self.world.machine).map(Some);
        }
        let of_answers = strike.fault.repository.is_some_and(|fault| !fault.is_of_the_whole());
        Ok(of_answers.then(|| self.world.has_misbehaved()))
    }

    /// The fault ends, and the admin does what has to be done.
    fn mend(&mut self) -> Result<()> {
        if let Some(strike) = &self.cell.strike {
            self.world.behave()?;
            strike_point(strike.step).disarm(&self.world.machine)?;
            self.world.machine.sh(strike.mend()).context("it cannot be mended")?;
        }
        Ok(())
    }

    /// The run after one that did not upgrade the machine. Nothing of that one is in its way.
    fn again(&mut self) -> Result<()> {
        self.mend()?;
        self.world.behave()?;
        self.world.machine.sh(&self.cell.state.mend).context("the state cannot be mended")?;
        if let Some(before) = &self.database
            && self.cell.expectation().end() != End::Stuck
        {
            self.record.look(unchanged(before, &self.world.machine)?);
        }
        let expected = self.cell.expectation_again();
        let transcript = self.world.upgrade(&["--yes"]).in_shell(&self.cell.state.shell).run()?;
        self.record.expect(&transcript, &expected);
        let end = transcript.screen.trim_end().rsplit("\n\n").next().unwrap_or_default().to_owned();
        let _ = write!(
            self.document,
            "\nAnd when it is started again:\n{}\n[exit code {}]\n",
            self.world.redacted(&end),
            transcript.exit
        );
        self.look_at_the_upgraded(&expected)
    }

    fn look_at_the_upgraded(&mut self, expected: &Expectation) -> Result<()> {
        let debian = self.cell.next_debian.unwrap_or(self.cell.debian);
        let installed = match &self.cell.defect {
            Some(defect) => defect.portrait_of_new(debian, &self.upgrader),
            None if self.cell.has_database => {
                Portrait::with_database(debian, &self.cell.release(&self.cell.to)?, &self.upgrader)
            }
            None => Portrait::of_installed(debian, &self.cell.release(&self.cell.to)?, &self.upgrader),
        }?;
        let published = self.release.packages.iter().chain([&self.upgrader]);
        let packages: BTreeMap<_, _> =
            published.map(|package| (package.name.clone(), package.version.clone())).collect();
        let services = SERVICES.map(|name| (name, packages.get(name).map(String::as_str)));
        let upgraded = Upgraded {
            machine: &self.world.machine,
            upgrader: &self.upgrader.name,
            packages: &packages,
            services: &services,
            expect: expected,
            installed: &installed,
            own: &[],
            next_debian: self.cell.next_debian,
            failed_before: &self.failed_before,
            since: &self.mark,
        };
        self.record.look(course::undeclared_services(&self.release));
        let (looked, kept) = both(|| upgraded.checks(), || self.own.checks(&self.world.machine, Data::Files));
        looked?.into_iter().for_each(|check| self.record.look(check));
        kept?.into_iter().for_each(|check| self.record.look(check));
        if let Some(check) = self.cell.state.check(&self.world.machine)? {
            self.record.look(check);
        }
        if self.database.is_some() {
            self.record.look(migrated(&self.world.machine, &self.release)?);
        }
        Ok(())
    }
}

/// Lets a fault strike when its step comes.
fn arm(strike: &Strike, world: &World) -> Result<()> {
    let machine = &world.machine;
    for script in [&strike.fault.prepare, &strike.at.prepare] {
        machine.sh(script).context("the fault cannot be prepared")?;
    }
    if let Some(fault) = strike.repository() {
        world.misbehave(fault)?;
    }
    if strike.strikes() {
        let cut = format!("touch {POWER_CUT}; sleep infinity");
        let deed = if strike.fault.power_cut { &cut } else { &strike.fault.strike };
        strike_point(strike.step).arm(machine, deed, strike.fault.persists)?;
    }
    Ok(())
}

/// True if a run can be stopped in a step: where something on the machine can hold it.
#[must_use]
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

/// Where a fault strikes.
fn strike_point(step: Step) -> Point {
    Point { name: "strike", step }
}

fn not(wanted: bool, otherwise: &str) -> Vec<String> {
    if wanted { Vec::new() } else { vec![otherwise.to_owned()] }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
