//! Follows a run that another process performs.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;

use crate::context::Context;
use crate::exit::{Exit, Failure, Stopped, complain};
use crate::model::event::Event;
use crate::model::events::Events;
use crate::output::stream::{self, Follower};
use crate::system::{lock, signals};

/// How often to check that the worker is alive.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// `NAME-upgrade attach`: shows the run that is under way, from its beginning.
pub(crate) fn attach(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let nothing = || Failure::new("no upgrade is under way");
    if !lock::is_taken(&context.paths.lock()) {
        return Err(anyhow::Error::new(
            nothing().remedy(format!("`{0} history` lists the past ones; `{0}` begins one.", context.paths.package())),
        )
        .into());
    }
    let mut follower = Follower::open(&context.paths.events()).map_err(|error| error.context(nothing()))?;
    follow(context, &mut follower, events)
}

/// True if the run under way has detached from its terminal, so that others can follow it.
pub(crate) fn is_possible(context: &Context<'_>) -> bool {
    let events = stream::read(&context.paths.events()).unwrap_or_default();
    let detached = events.iter().any(|event| matches!(event, Event::Detached { .. }));
    detached && !events.iter().any(|event| matches!(event, Event::Finished { .. }))
}

/// Shows what the worker records, and returns its exit code. Ctrl-C ends only this.
pub(crate) fn follow(context: &Context<'_>, follower: &mut Follower, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let leave = signals::watch()?;
    let lock = context.paths.lock();
    loop {
        // Before the recording, so that the last events of a dead worker are read.
        let alive = lock::is_taken(&lock);
        while let Some(event) = follower.read() {
            // The screen comes first: it removes its bar.
            events.show(&event);
            if let Event::Failed(text) = &event {
                complain(text);
            }
            if let Event::Finished { exit, .. } = event {
                wait_until_gone(&lock, follower);
                return Ok(exit);
            }
        }
        let run = if events.report().rolled_back { "rollback" } else { "upgrade" };
        if leave.load(Ordering::Relaxed) {
            complain(&format!("\nThe {run} continues. Reattach: {} attach", context.paths.package()));
            return Ok(Exit::Busy);
        }
        if !alive {
            let (log, command) = (context.paths.log(), context.paths.package());
            let next = if run == "upgrade" { "the upgrade or rolls it back" } else { "the rollback" };
            let failure = Failure::new(format!("the {run} was interrupted: its process is gone"))
                .remedy(format!("See {}, then start {command} again: it completes {next}.", log.display()));
            return Err(Stopped { error: failure.into(), exit: Exit::NeedsHuman });
        }
        follower.wait(HEARTBEAT);
    }
}

/// Waits until the worker has released the lock, so that the next command gets it.
fn wait_until_gone(lock: &Path, follower: &Follower) {
    for _ in 0..500 {
        if !lock::is_taken(lock) {
            return;
        }
        follower.wait(Duration::from_millis(10));
    }
}
