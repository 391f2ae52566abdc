//! The unit that runs at boot: completes an interrupted run, or rolls it back.

use std::time::Duration;

use anyhow::Result;

use super::Run;
use super::resume::needs_human;
use crate::config::product::Product;
use crate::config::settings::RollbackPolicy;
use crate::context::Context;
use crate::engine::journal::{self, Journal, PastRun};
use crate::engine::{self_update, worker};
use crate::exit::{Exit, Explain as _, Failure, Stopped, code_of, describe};
use crate::files;
use crate::model::event::Event;
use crate::model::events::Events;
use crate::model::step::{Mode, Next, Outcome, Step};
use crate::output::session;
use crate::printable;
use crate::system::lock::Lock;
use crate::system::remove_file;
use crate::system::{package_locks, signals};

/// How often a run is resumed at boot. After that it is rolled back, which is tried as often again.
const BOOTS: u32 = 3;

/// How long to wait at boot for the dpkg lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Completes an interrupted run, and if that fails rolls it back. If both fail, leaves a message for the next login.
pub(super) fn at_boot(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let result = resume_run(context, events).map_err(|stopped| {
        // A journal that cannot be read tells of no end either.
        let is_over = Journal::read(context.paths).is_ok_and(|past| past.is_none_or(|past| !past.was_interrupted()));
        if is_over || code_of(&stopped.error, stopped.exit) != Exit::Unchanged {
            stopped
        } else {
            needs_human(stopped.error)
        }
    });
    let exit = result.as_ref().map_or_else(|stopped| code_of(&stopped.error, stopped.exit), |exit| *exit);
    if exit == Exit::NeedsHuman {
        let command = context.paths.package();
        let text = format!(
            "An upgrade was interrupted, and could neither be completed nor rolled back at boot.\nWhat to do: `{command}` tries \
             again and shows the error; `{command} rollback` rolls back; {} is the log.\n",
            context.paths.log().display()
        );
        show_at_login(context, &text);
    }
    result
}

/// Shows a text at each login, until [`Run::remove_boot_message`] or the next boot.
fn show_at_login(context: &Context<'_>, text: &str) {
    let path = context.paths.message_of_the_day();
    let _ = path.parent().map(files::make_public);
    let _ = files::replace(&path, 0o644, printable::lines(text).as_bytes());
}

impl Run<'_> {
    /// Removes the message that the unit at boot shows at each login.
    pub(super) fn remove_boot_message(&self) {
        // The next boot removes it in any case.
        let _ = remove_file(&self.context.paths.message_of_the_day());
    }
}

fn resume_run(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let Ok(_lock) = Lock::take(&context.paths.lock()) else { return Ok(Exit::Busy) };
    journal::discard_expired(context.paths, context.config.keep.rollback_days)?;
    if files::exists(context.paths.self_update()) {
        session::begin(context, events)?;
        self_update::finish(context.paths, context.config.time_limits.source, events)?;
        return Ok(Exit::Done);
    }
    // A run that needs a human is not resumed here.
    let Some(past) = Journal::read(context.paths)?.filter(PastRun::was_interrupted) else { return Ok(Exit::Done) };
    signals::shield()?;
    session::begin(context, events)?;
    let product = Product::read(&context.paths.product())?;
    let mut run = Run::new(context, &product);
    if !past.has_changed_something() {
        run.forget(events)?;
        return Ok(Exit::Done);
    }
    events.emit(Event::Interrupted(run.describe_interrupted(&past)));
    let (is_back, boots) = (past.rolling_back.is_some(), past.boots);
    run.past = Some(past);
    let too_often = format!("the interrupted upgrade was resumed {boots} times at boot, without success");
    let can_roll_back = context.config.rollback == RollbackPolicy::Auto && journal::is_revertible(context.paths);
    if boots >= if is_back { 2 * BOOTS } else { BOOTS } && (is_back || !can_roll_back) {
        let remedy = format!("`{}` tries again, and shows the error.", context.paths.package());
        return Err(Stopped { error: Failure::new(too_often).remedy(remedy).into(), exit: Exit::NeedsHuman });
    }
    let gives_up = !is_back && boots >= BOOTS;
    let (command, way) = (context.paths.package(), if is_back || gives_up { "rolled back" } else { "completed" });
    show_at_login(context, &format!("An interrupted upgrade is being {way}: `{command} attach` shows it.\n"));
    run.detach(Some(worker::own_unit(context.paths)), events);
    if gives_up {
        let text = format!("error: {too_often}");
        events.emit(Event::Failed(text.clone()));
        run.begin_rollback(text, events).map_err(|error| run.not_rolled_back(&error))?;
    }
    // Other programs may hold the dpkg lock for long after a boot. That is no reason for a rollback.
    package_locks::wait(context.paths.root(), LOCK_TIMEOUT, events)
        .explain(|| Failure::new("the interrupted upgrade was not resumed").exit(Exit::NeedsHuman))?;
    if is_back || gives_up {
        return run.roll_back_at_boot(events).map_err(|stopped| run.partially_upgraded(stopped));
    }
    run.agreed = true;
    if run.roll_back_torn_packages(events).map_err(|error| run.partially_upgraded(error.into()))? {
        return run.roll_back_at_boot(events).map_err(|stopped| run.partially_upgraded(stopped));
    }
    match run.prepare(events) {
        Ok(_) => {
            let Next::Step(first) = Step::Confirm.next(Outcome::Done, Mode::Upgrade) else { return Ok(Exit::Done) };
            run.open_journal(true, events).map_err(|error| run.partially_upgraded(error.into()))?;
            run.forward(first, events)
        }
        Err(stopped) => {
            let text = describe(&stopped.error);
            events.emit(Event::Failed(text.clone()));
            if !can_roll_back || package_locks::holder(context.paths.root()).is_some() {
                return Err(Stopped { error: stopped.error, exit: Exit::NeedsHuman });
            }
            run.begin_rollback(text, events).map_err(|error| run.not_rolled_back(&error))?;
            run.roll_back_at_boot(events).map_err(|stopped| run.partially_upgraded(stopped))
        }
    }
}
