//! Whom a run is told to, from its first program to its last.

use std::ffi::OsString;
use std::io::{IsTerminal as _, stdout};

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use crate::context::Context;
use crate::exit::{Exit, code_of};
use crate::model::event::Event;
use crate::model::events::Events;
use crate::output::journald::Journald;
use crate::output::log::Log;
use crate::output::screen::Screen;
use crate::output::stream::{self, Recorder};
use crate::output::{follow, history, notify};
use crate::system::lock::Lock;

/// Names a run to the program that goes on with it: when it started.
pub(crate) const VARIABLE: &str = "UPGRADE_RUN";

/// Takes the lock. None if another run is under way that this terminal can follow.
///
/// # Errors
/// With [`Exit::Busy`] if another run is under way and no terminal is there to show it.
pub(crate) fn lock(context: &Context<'_>) -> Result<Option<Lock>> {
    match Lock::take(&context.paths.lock()) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) => {
            let busy = code_of(&error, Exit::Unchanged) == Exit::Busy;
            if busy && stdout().is_terminal() && follow::is_possible(context) { Ok(None) } else { Err(error) }
        }
    }
}

/// Begins to tell of a run to the screen, the log and the recording, or goes on where the program that became this one
/// stopped. The lock must be held: there is one recording.
pub(crate) fn begin(context: &Context<'_>, events: &mut Events<'_>) -> Result<()> {
    let path = context.paths.events();
    let begun = std::env::var(VARIABLE).ok().and_then(|time| time.parse().ok());
    let past = begun.map_or_else(Vec::new, |time| recorded(context, time));
    keep(context, events)?;
    events.add_recorder(if past.is_empty() { Recorder::begin(&path)? } else { Recorder::append(&path)? });
    for event in &past {
        events.remember(event);
    }
    events.add_display(Screen::of(context.options));
    events.emit(started());
    Ok(())
}

/// Records what outlives the run.
fn keep(context: &Context<'_>, events: &mut Events<'_>) -> Result<()> {
    events.add_recorder(Log::open(&context.paths.log())?);
    if let Some(journald) = Journald::connect(context.paths.package()) {
        events.add_recorder(journald);
    }
    Ok(())
}

/// What was recorded of the run that started at this time; nothing if the recording is of another.
fn recorded(context: &Context<'_>, begun: Timestamp) -> Vec<Event> {
    let past = stream::read(&context.paths.events()).unwrap_or_default();
    let same = matches!(past.first(), Some(Event::Started { time, .. }) if *time == begun);
    if same { past } else { Vec::new() }
}

/// Goes on, in another process, with a run that the recording tells of.
pub(crate) fn resume(context: &Context<'_>, events: &mut Events<'_>) -> Result<()> {
    let path = context.paths.events();
    for event in stream::read(&path)? {
        events.remember(&event);
    }
    keep(context, events)?;
    events.add_recorder(Recorder::append(&path)?);
    events.emit(started());
    Ok(())
}

/// What the program that goes on needs in its environment.
pub(crate) fn variable(events: &Events<'_>) -> Option<(&'static str, OsString)> {
    Some((VARIABLE, events.report().started?.to_string().into()))
}

/// Ends a run that changed the machine, or was meant to: runs the admin's notification and prunes the history. A failure of either does
/// not change how the run ended.
pub(crate) fn end(context: &Context<'_>, events: &mut Events<'_>) {
    let report = events.report().clone();
    let notified = notify::run(&context.config.notify, &report, &mut events.output_of("notify"));
    let days = SignedDuration::from_hours(24 * i64::from(context.config.keep.history_days));
    let pruned = history::prune(&context.paths.history(), Timestamp::now() - days);
    for error in [notified, pruned].into_iter().filter_map(Result::err) {
        events.emit(Event::Output { source: context.paths.package(), line: format!("{error:#}") });
    }
}

fn started() -> Event {
    let arguments = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    Event::Started { version: env!("CARGO_PKG_VERSION").to_owned(), arguments, time: Timestamp::now() }
}
