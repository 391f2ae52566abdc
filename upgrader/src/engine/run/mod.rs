//! `real-NAME-upgrade`: its verbs, and the run that the steps share. [`crate::model::step`] decides the order of the steps, and whether
//! a failed one is rolled back; `prepare` has the steps up to the question.

mod boot;
mod finish;
mod hooks;
mod prepare;
mod resume;
mod rollback;
mod rollback_verb;
mod work;

use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::config::product::Product;
use crate::context::{Context, Verb};
use crate::engine::journal::{Journal, JournalEntry, PastRun};
use crate::engine::restart::Restarted;
use crate::engine::steps::{Reached, drive};
use crate::engine::{status, worker};
use crate::exit::{Exit, Failure, Stopped};
use crate::files;
use crate::model::event::Event;
use crate::model::events::Events;
use crate::model::hook::Phase;
use crate::model::plan::Plan;
use crate::model::step::{Mode, Next, Outcome, Step};
use crate::output::history::HistoryWriter;
use crate::output::screen::Screen;
use crate::output::stream::Follower;
use crate::output::{follow, session};
use crate::system::apt::Simulation;
use crate::system::inhibitor::Inhibitor;
use crate::system::lock::Lock;
use crate::system::{dpkg, filesystems, signals, systemd, without_sync};

/// `real-NAME-upgrade`, which `NAME-upgrade` becomes once its package is up to date.
pub fn run(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    match &context.options.verb {
        None => attended(context, events, upgrade),
        Some(Verb::Attach) => attach(context, events),
        Some(Verb::Work) => work(context, events),
        Some(Verb::Status { drift: false }) => status::show(context),
        Some(Verb::Status { drift: true }) => status::show_drift(context),
        Some(Verb::History) => status::show_history(context),
        Some(Verb::Rollback) => attended(context, events, rollback_verb::run),
        Some(Verb::Resume) => boot::at_boot(context, events),
        Some(Verb::WithoutSync { command }) => Err(without_sync::become_program(command).into()),
    }
}

/// Begins a run at the admin's terminal, or shows the run that is under way.
fn attended(
    context: &Context<'_>,
    events: &mut Events<'_>,
    verb: impl FnOnce(Run<'_>, Lock, &mut Events<'_>) -> Result<Exit, Stopped>,
) -> Result<Exit, Stopped> {
    let Some(lock) = session::lock(context)? else { return attach(context, events) };
    signals::leave_when_asked()?;
    session::begin(context, events)?;
    let product = Product::read(&context.paths.product())?;
    verb(Run::new(context, &product), lock, events)
}

fn attach(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    events.add_display(Screen::of(context.options));
    follow::attach(context, events)
}

/// Plans and asks; a worker does the rest.
fn upgrade(mut run: Run<'_>, lock: Lock, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    match run.find_interrupted_run(events)? {
        resume::ResumeChoice::Continue => {}
        resume::ResumeChoice::RollBack => return run.hand_over(lock, Step::RollBack, events),
        resume::ResumeChoice::Leave(exit) => return Ok(exit),
    }
    match run.prepare(events).map_err(|stopped| run.partially_upgraded(stopped))? {
        Reached::End(last, exit) => Ok(run.finish(last, exit, events)?),
        Reached::Before(step) => {
            let exit = run.hand_over(lock, step, events)?;
            rollback_verb::offer(run.context, exit)
        }
    }
}

/// The worker that [`Run::hand_over`] starts.
fn work(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let _lock = Lock::inherited(&context.paths.lock())?;
    // The process that started this worker shares the lock. It works itself if the worker was too slow.
    if follow::is_possible(context) {
        return Err(anyhow!("another process already continues this run").into());
    }
    signals::shield()?;
    session::resume(context, events)?;
    let product = Product::read(&context.paths.product())?;
    let mut run = Run::new(context, &product);
    let unit = Some(worker::own_unit(context.paths));
    if events.report().rolled_back {
        return run.continue_from(Step::RollBack, unit, events);
    }
    run.plan = Some(events.report().plan.clone().context("the recording has no plan")?);
    match Step::Confirm.next(Outcome::Done, Mode::Upgrade) {
        Next::Step(step) => run.continue_from(step, unit, events),
        Next::End(exit) => Ok(exit),
    }
}

/// A run under way, and what its steps have found so far.
struct Run<'a> {
    context: &'a Context<'a>,
    product: &'a Product,
    plan: Option<Plan>,
    restarted: Restarted,
    /// None before the first step that changes the machine.
    journal: Option<Journal>,
    /// The interrupted run that this one completes or rolls back.
    past: Option<PastRun>,
    /// True if the admin agreed to complete that one.
    agreed: bool,
    /// Holds off a shutdown while the run changes the machine.
    inhibitor: Option<Inhibitor>,
    /// True once this run has saved rollback data, or found that of the run that it resumes to be complete.
    has_rollback_data: bool,
    /// What apt is about to change, if it was asked after the last hook, and [`crate::system::apt::last_changes`] from before.
    simulation: Option<(Simulation, [Option<SystemTime>; 3])>,
}

impl<'a> Run<'a> {
    fn new(context: &'a Context<'a>, product: &'a Product) -> Self {
        Self {
            context,
            product,
            plan: None,
            restarted: Restarted::default(),
            journal: None,
            past: None,
            agreed: false,
            inhibitor: None,
            has_rollback_data: false,
            simulation: None,
        }
    }

    /// Performs the steps before the machine is changed.
    fn prepare(&mut self, events: &mut Events<'_>) -> Result<Reached, Stopped> {
        let mode = self.context.options.mode();
        drive(Step::Preflight, |step| !step.works(mode), mode, events, |step, events| self.perform(step, events))
    }

    /// Lets a worker in a systemd unit continue with this step, and follows it. Without systemd this process continues, and ignores
    /// the signals of its terminal.
    fn hand_over(&mut self, lock: Lock, step: Step, events: &mut Events<'_>) -> Result<Exit, Stopped> {
        let context = self.context;
        let mut follower = Follower::open(&context.paths.events())?;
        follower.skip();
        if systemd::is_running() {
            match worker::start(context.paths, &lock, &mut follower) {
                Ok(()) => {
                    drop(lock);
                    events.stop_recording();
                    return follow::follow(context, &mut follower, events);
                }
                Err(error) => {
                    events.emit(Event::Output { source: "systemd-run".to_owned(), line: format!("{error:#}") });
                }
            }
        }
        signals::shield()?;
        self.continue_from(step, None, events)
    }

    /// Continues in this process with the first step that changes the machine.
    fn continue_from(&mut self, first: Step, unit: Option<String>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
        self.detach(unit, events);
        if first == Step::RollBack {
            return self.roll_back_as_asked(events);
        }
        let opened = self.open_journal(false, events);
        opened.map_err(|error| self.partially_upgraded(error.into()))?;
        self.forward(first, events)
    }

    /// Records from here on that the run continues without the terminal, in this unit.
    fn detach(&mut self, unit: Option<String>, events: &mut Events<'_>) {
        events.add_recorder(HistoryWriter::new(self.context.paths, events.report().clone()));
        self.hold_shutdown_off();
        events.emit(Event::Detached { unit, command: self.context.paths.package() });
    }

    /// Takes a shutdown lock. Called again before the services are restarted: the programs of the first lock may run replaced libraries.
    fn hold_shutdown_off(&mut self) {
        if systemd::is_running() {
            let log = files::append(&self.context.paths.log(), 0o640);
            self.inhibitor = log.ok().and_then(|log| Inhibitor::take(&self.context.paths.package(), log).ok());
        }
    }

    /// Ends the run here if the machine is shutting down: nothing can be restarted, and the unit at boot resumes the run.
    ///
    /// # Errors
    /// If it is shutting down.
    fn stop_at_shutdown() -> Result<()> {
        if signals::was_asked_to_end() && systemd::is_stopping() {
            return Err(Failure::new("the next step was not begun, because the machine is shutting down")
                .remedy("Start again when it has booted.")
                .into());
        }
        Ok(())
    }

    /// Performs the steps from this one on; if one fails, rolls back or stops.
    fn forward(&mut self, first: Step, events: &mut Events<'_>) -> Result<Exit, Stopped> {
        match drive(first, |_| true, Mode::Upgrade, events, |step, events| self.journaled(step, events)) {
            Ok(Reached::End(last, exit)) => {
                self.close_journal(events);
                // An error here does not mean that nothing was changed.
                self.finish(last, exit, events).map_err(|error| Stopped { error, exit: Exit::NeedsHuman })
            }
            Ok(Reached::Before(step)) => Err(anyhow!("{step} was left out").into()),
            Err(stopped) => self.stopped(stopped, events),
        }
    }

    /// Performs a step between two entries of the journal, unless the interrupted run has completed it.
    fn journaled(&mut self, step: Step, events: &mut Events<'_>) -> Result<Outcome> {
        // Without work there is no entry.
        if step == Step::Repair && !dpkg::was_interrupted(self.context.paths)? {
            return Ok(Outcome::Done);
        }
        let again = matches!(step, Step::Repair | Step::Download);
        if !again && self.past.as_ref().is_some_and(|past| past.has_ended(step)) && self.is_done_with(step)? {
            events.emit(Event::StepAlreadyDone(step));
            return Ok(Outcome::Done);
        }
        Self::stop_at_shutdown()?;
        self.note(JournalEntry::StepBegan(step))?;
        let performed = self.perform(step, events);
        // A step that has ended is not repeated after a power cut: its files must be on the disk. Nor is one that has failed.
        let synced = filesystems::sync();
        let outcome = performed?;
        synced?;
        self.note(JournalEntry::StepEnded(step))?;
        Ok(outcome)
    }

    fn note(&mut self, entry: JournalEntry) -> Result<()> {
        self.journal.as_mut().context("there is no journal")?.write(entry)
    }

    fn perform(&mut self, step: Step, events: &mut Events<'_>) -> Result<Outcome> {
        match step {
            Step::Refresh | Step::SelfUpdate => bail!("{step} is a step of the other program"),
            Step::Preflight => self.preflight(events),
            Step::Plan => self.show_plan(events),
            Step::Confirm => self.confirm(events),
            Step::Repair => self.repair(events),
            Step::Download => self.download(events),
            Step::SaveRollbackData => self.save_rollback_data(events),
            Step::PreUpgradeHooks => self.hooks(Phase::PreUpgrade, events),
            Step::Packages => self.packages(events),
            Step::Migrate => self.migrate(events),
            Step::PostUpgradeHooks => self.hooks(Phase::PostUpgrade, events),
            Step::Restart => self.restart(events),
            Step::Verify => self.verify(events),
            Step::RollBack => self.roll_back(events),
            Step::RollBackDatabase => self.roll_back_database(events),
            Step::RestartOld => self.restart_old(events),
            Step::VerifyOld => self.verify_old(events),
        }
    }

    fn plan(&self) -> Result<&Plan> {
        self.plan.as_ref().context("there is no plan yet")
    }
}
