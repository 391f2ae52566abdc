//! `real-NAME-upgrade`: the loop over the steps.

mod boot;
mod finish;
mod prepare;
mod resume;
pub mod roll_back;
mod work;

use std::io::{IsTerminal as _, stdout};

use anyhow::{Context as _, Result, anyhow, bail};

pub use self::boot::RESUME;
use crate::cli::{Context, Verb};
use crate::config::product::Product;
use crate::engine::journal::{Entry, Journal, Past};
use crate::engine::restart::Restarted;
use crate::engine::status;
use crate::engine::worker;
use crate::exit::{Exit, Stopped, code_of};
use crate::model::event::{Event, Events};
use crate::model::hook::Phase;
use crate::model::plan::Plan;
use crate::model::step::{Mode, Next, Outcome, Step};
use crate::output::follow;
use crate::output::history::Keeper;
use crate::output::screen::Screen;
use crate::output::session;
use crate::output::stream::Follower;
use crate::system::dpkg;
use crate::system::lock::Lock;
use crate::system::signals;

/// `real-NAME-upgrade`: everything that comes after the upgrader is up to date.
pub fn run(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    match &context.options.verb {
        None => upgrade(context, events),
        Some(Verb::Attach) => {
            events.show_on(Screen::of(context.options));
            follow::attach(context, events)
        }
        Some(Verb::Work) => work(context, events),
        Some(Verb::Status { drift: false }) => status::show(context),
        Some(Verb::Status { drift: true }) => status::show_drift(context),
        Some(Verb::History) => crate::output::history::show(context),
        Some(Verb::Rollback) => roll_back::by_hand(context, events),
        Some(Verb::Resume) => boot::at_boot(context, events),
    }
}

/// Takes the lock. Where somebody looks at a terminal, a run that is under way is shown instead of refused.
///
/// # Errors
/// If another run is under way, and for [`Exit::Busy`] alone there is nobody to show it to.
pub fn lock(context: &Context<'_>) -> Result<Option<Lock>> {
    match Lock::take(&context.paths.lock()) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) => {
            let busy = code_of(&error, Exit::Unchanged) == Exit::Busy;
            if busy && stdout().is_terminal() && follow::is_possible(context) { Ok(None) } else { Err(error) }
        }
    }
}

/// Plans, asks, and lets a worker do the rest.
fn upgrade(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let Some(lock) = lock(context)? else {
        events.show_on(Screen::of(context.options));
        return follow::attach(context, events);
    };
    signals::leave_when_asked()?;
    session::begin(context, events)?;
    let product = Product::read(&context.paths.product())?;
    let mut run = Run::new(context, &product);
    match run.look_back(events)? {
        resume::Way::On => {}
        resume::Way::Back => return hand_over(&mut run, lock, Step::RollBack, events),
        resume::Way::Neither(exit) => return Ok(exit),
    }
    let mode = context.options.mode();
    let reached =
        drive(Step::Preflight, |step| !step.works(mode), mode, events, |step, events| run.perform(step, events));
    match reached.map_err(|stopped| run.half_way(stopped))? {
        Reached::End(last, exit) => Ok(run.finish(last, exit, events)?),
        Reached::Before(step) => {
            let exit = hand_over(&mut run, lock, step, events)?;
            roll_back::if_wanted(context, exit)
        }
    }
}

/// Leaves the steps from this one on to a unit of systemd's, and shows what it does. Without systemd this process goes on, and
/// is deaf to its terminal.
fn hand_over(run: &mut Run<'_>, lock: Lock, step: Step, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let context = run.context;
    let mut follower = Follower::open(&context.paths.events())?;
    follower.skip();
    if worker::has_systemd() {
        match worker::start(context.paths, &lock, &mut follower) {
            Ok(()) => {
                drop(lock);
                events.stop_recording();
                return follow::follow(context, &mut follower, events);
            }
            Err(error) => {
                events.tell(Event::Output { source: "systemd-run".to_owned(), line: format!("{error:#}") });
            }
        }
    }
    signals::shield()?;
    run.go_on(step, None, events)
}

/// Does the work that [`hand_over`] left to this process.
fn work(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let _lock = Lock::inherited(&context.paths.lock())?;
    // Whoever lost patience with us works already, and has the lock as well.
    if follow::is_possible(context) {
        return Err(anyhow!("another process has gone on with this run").into());
    }
    signals::shield()?;
    session::go_on(context, events)?;
    let product = Product::read(&context.paths.product())?;
    let mut run = Run::new(context, &product);
    let unit = Some(worker::own_unit(context.paths));
    if events.report().rolled_back {
        return run.go_on(Step::RollBack, unit, events);
    }
    run.plan = Some(events.report().plan.clone().context("the recording has no plan")?);
    match Step::Confirm.next(Outcome::Done, Mode::Upgrade) {
        Next::Step(step) => run.go_on(step, unit, events),
        Next::End(exit) => Ok(exit),
    }
}

/// How far the steps came.
#[derive(Debug)]
pub enum Reached {
    /// This was the last one, and the exit code that [`Step::next`] has for it.
    End(Step, Exit),
    /// The next one is not for this process.
    Before(Step),
}

/// Performs one step after the other, beginning with `first`, until there is none, one fails, or one is not `ours`.
pub fn drive(
    first: Step,
    ours: impl Fn(Step) -> bool,
    mode: Mode,
    events: &mut Events<'_>,
    mut perform: impl FnMut(Step, &mut Events<'_>) -> Result<Outcome>,
) -> Result<Reached, Stopped> {
    let mut step = first;
    while ours(step) {
        events.tell(Event::Began(step));
        let outcome = perform(step, events).map_err(|error| Stopped { error, exit: step.exit_on_failure() })?;
        events.tell(Event::Ended(step));
        match step.next(outcome, mode) {
            Next::Step(next) => step = next,
            Next::End(exit) => return Ok(Reached::End(step, exit)),
        }
    }
    Ok(Reached::Before(step))
}

/// A run under way, and what its steps have found.
struct Run<'a> {
    context: &'a Context<'a>,
    product: &'a Product,
    plan: Option<Plan>,
    /// What came of the services' turn.
    restarted: Restarted,
    /// What is written down before it is done; none before anything is.
    journal: Option<Journal>,
    /// How far an earlier run came that this one goes on with.
    past: Option<Past>,
    /// True if somebody agreed to complete that one.
    agreed: bool,
}

impl<'a> Run<'a> {
    fn new(context: &'a Context<'a>, product: &'a Product) -> Self {
        Self { context, product, plan: None, restarted: Restarted::default(), journal: None, past: None, agreed: false }
    }

    /// The rest of the run, from the first step that changes the machine, in this process.
    fn go_on(&mut self, first: Step, unit: Option<String>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
        events.record_in(Keeper::new(self.context.paths, events.report().clone()));
        events.tell(Event::OnItsOwn { unit });
        if first == Step::RollBack {
            return self.go_back(events);
        }
        self.open_journal(false)?;
        self.forward(first, events)
    }

    /// The steps from this one on, and what becomes of them if one fails.
    fn forward(&mut self, first: Step, events: &mut Events<'_>) -> Result<Exit, Stopped> {
        match drive(first, |_| true, Mode::Upgrade, events, |step, events| self.journaled(step, events)) {
            Ok(Reached::End(last, exit)) => {
                self.close_journal(events);
                // By now the machine has changed, whatever the last words are.
                self.finish(last, exit, events).map_err(|error| Stopped { error, exit: Exit::NeedsHuman })
            }
            Ok(Reached::Before(step)) => Err(anyhow!("{step} was left out").into()),
            Err(stopped) => self.stopped(stopped, events),
        }
    }

    /// Performs a step between two entries of the journal, unless an earlier run came to its end with it.
    fn journaled(&mut self, step: Step, events: &mut Events<'_>) -> Result<Outcome> {
        // What is not done is not written down either.
        if step == Step::Repair && !dpkg::was_interrupted(self.context.paths)? {
            return Ok(Outcome::Done);
        }
        let again = matches!(step, Step::Repair | Step::Download);
        if !again && self.past.as_ref().is_some_and(|past| past.has_ended(step)) && self.is_done_with(step)? {
            events.tell(Event::DoneBefore(step));
            return Ok(Outcome::Done);
        }
        self.note(Entry::StepBegan(step))?;
        let outcome = self.perform(step, events)?;
        self.note(Entry::StepEnded(step))?;
        Ok(outcome)
    }

    fn note(&mut self, entry: Entry) -> Result<()> {
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
            Step::Arm => self.arm(events),
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
