//! Looking on while another process works.

use std::io::{Write as _, stderr};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;

use crate::context::Context;
use crate::exit::{Exit, Failure, Stopped};
use crate::model::event::Event;
use crate::model::events::Events;
use crate::output::stream::{self, Follower};
use crate::system::{lock, signals};

/// How often to look whether the worker still lives.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// `NAME-upgrade attach`: shows the run that is under way, from its beginning.
pub(crate) fn attach(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let nothing = || Failure::new("no upgrade is under way");
    if !lock::is_taken(&context.paths.lock()) {
        return Err(anyhow::Error::new(nothing().remedy(format!(
            "`{0} history` tells of those that are over; `{0}` begins one.",
            context.paths.package()
        )))
        .into());
    }
    let mut follower = Follower::open(&context.paths.events()).map_err(|error| error.context(nothing()))?;
    follow(context, &mut follower, events)
}

/// True if the run under way has been left to itself, so that it can be followed.
pub(crate) fn is_possible(context: &Context<'_>) -> bool {
    let events = stream::read(&context.paths.events()).unwrap_or_default();
    let detached = events.iter().any(|event| matches!(event, Event::Detached { .. }));
    detached && !events.iter().any(|event| matches!(event, Event::Finished { .. }))
}

/// Shows what the worker records, until it has finished: then with its exit code. Ctrl-C leaves the screen, not the work.
pub(crate) fn follow(context: &Context<'_>, follower: &mut Follower, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let leave = signals::watch()?;
    let lock = context.paths.lock();
    loop {
        // Looked at before the recording: what a worker writes last is read all the same.
        let alive = lock::is_taken(&lock);
        while let Some(event) = follower.read() {
            // The screen first: it removes its bar.
            events.show(&event);
            if let Event::Failed(text) = &event {
                let _ = writeln!(stderr(), "{text}");
            }
            if let Event::Finished { exit, .. } = event {
                wait_until_gone(&lock, follower);
                return Ok(exit);
            }
        }
        if leave.load(Ordering::Relaxed) {
            let _ = writeln!(stderr(), "\nThe upgrade goes on. `{} attach` shows it again.", context.paths.package());
            return Ok(Exit::Busy);
        }
        if !alive {
            return Err(cut_short(&context.paths.package(), &context.paths.log()));
        }
        follower.wait(HEARTBEAT);
    }
}

/// Whoever types the next command must not find the worker that has just finished in its way.
fn wait_until_gone(lock: &Path, follower: &Follower) {
    for _ in 0..500 {
        if !lock::is_taken(lock) {
            return;
        }
        follower.wait(Duration::from_millis(10));
    }
}

fn cut_short(command: &str, log: &Path) -> Stopped {
    let failure = Failure::new("the upgrade was interrupted: its process is gone").remedy(format!(
        "See {}, then start {command} again: it completes the upgrade or rolls it back.",
        log.display()
    ));
    Stopped { error: failure.into(), exit: Exit::NeedsHuman }
}
