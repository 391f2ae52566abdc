//! The loop over the steps. What each step does is in `run` and `refresh`.

use anyhow::Result;

use crate::exit::{Exit, Stopped};
use crate::model::event::Event;
use crate::model::events::Events;
use crate::model::step::{Mode, Next, Outcome, Step};

/// Why the loop ended.
#[derive(Debug)]
pub(crate) enum Reached {
    /// The last step ended; the exit code is that of [`Step::next`].
    End(Step, Exit),
    /// This step is for another process.
    Before(Step),
}

/// Performs the steps from `first` on, until the last one, a failure, or one that is not `ours`.
pub(crate) fn drive(
    first: Step,
    ours: impl Fn(Step) -> bool,
    mode: Mode,
    events: &mut Events<'_>,
    mut perform: impl FnMut(Step, &mut Events<'_>) -> Result<Outcome>,
) -> Result<Reached, Stopped> {
    let mut step = first;
    while ours(step) {
        events.emit(Event::Began(step));
        let outcome = perform(step, events).map_err(|error| Stopped { error, exit: step.exit_on_failure() })?;
        events.emit(Event::Ended(step));
        match step.next(outcome, mode) {
            Next::Step(next) => step = next,
            Next::End(exit) => return Ok(Reached::End(step, exit)),
        }
    }
    Ok(Reached::Before(step))
}
