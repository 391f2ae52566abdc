//! Opens the subscribers of a run, in each of the processes that perform it.

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
use crate::system::filesystems;
use crate::system::lock::Lock;

/// Has the start time of the run, for the program that this one becomes.
const VARIABLE: &str = "UPGRADE_RUN";

/// Takes the lock. None if another run is under way that this terminal can follow; without a terminal that is an error.
pub(crate) fn lock(context: &Context<'_>) -> Result<Option<Lock>> {
    match Lock::take(&context.paths.lock()) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) => {
            let busy = code_of(&error, Exit::Unchanged) == Exit::Busy;
            if busy && stdout().is_terminal() && follow::is_possible(context) { Ok(None) } else { Err(error) }
        }
    }
}

/// Opens screen, log and recording, or continues the recording of the program that became this one. Needs the lock: there is one
/// recording.
pub(crate) fn begin(context: &Context<'_>, events: &mut Events<'_>) -> Result<()> {
    let path = context.paths.events();
    let begun = std::env::var(VARIABLE).ok().and_then(|time| time.parse().ok());
    let past = begun.map_or_else(Vec::new, |time| recorded(context, time));
    add_logs(context, events)?;
    events.add_recorder(if past.is_empty() { Recorder::begin(&path)? } else { Recorder::append(&path)? });
    for event in &past {
        events.remember(event);
    }
    events.add_display(Screen::of(context.options));
    events.emit(started());
    Ok(())
}

fn add_logs(context: &Context<'_>, events: &mut Events<'_>) -> Result<()> {
    match Log::open(&context.paths.log()) {
        Ok(log) => events.add_recorder(log),
        // The preflight checks and those of a rollback say what is wrong with the disk, and what to do.
        Err(error) if filesystems::is_of_disk(&error) => {}
        Err(error) => return Err(error),
    }
    if let Some(journald) = Journald::connect(context.paths.package()) {
        events.add_recorder(journald);
    }
    Ok(())
}

/// The recorded events of the run that started at this time; empty if the recording is of another run.
fn recorded(context: &Context<'_>, begun: Timestamp) -> Vec<Event> {
    let past = stream::read(&context.paths.events()).unwrap_or_default();
    let same = matches!(past.first(), Some(Event::Started { time, .. }) if *time == begun);
    if same { past } else { Vec::new() }
}

/// Continues the recorded run in another process.
pub(crate) fn resume(context: &Context<'_>, events: &mut Events<'_>) -> Result<()> {
    let path = context.paths.events();
    for event in stream::read(&path)? {
        events.remember(&event);
    }
    add_logs(context, events)?;
    events.add_recorder(Recorder::append(&path)?);
    events.emit(started());
    Ok(())
}

/// The environment variable for the program that this one becomes.
pub(crate) fn variable(events: &Events<'_>) -> Option<(&'static str, OsString)> {
    Some((VARIABLE, events.report().started?.to_string().into()))
}

/// Runs the admin's notification and prunes the history. A failure of either does not change the result of the run.
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
