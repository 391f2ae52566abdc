//! `NAME-upgrade`: reads the package lists, updates its own package, and becomes `real-NAME-upgrade`.

use std::ffi::OsString;

use anyhow::Result;

use crate::context::Context;
use crate::engine::journal::Journal;
use crate::engine::self_update;
use crate::engine::steps::drive;
use crate::exit::{Exit, Failure, Stopped};
use crate::model::events::Events;
use crate::model::step::{Outcome, Step};
use crate::output::session;
use crate::system::command::Program;
use crate::system::{apt, package_locks, signals};

/// Becomes the `real-NAME-upgrade` that is on disk after the update, with the same arguments. Returns only if it fails.
///
/// Does not read product.toml: a new package must be able to repair a broken one.
pub fn run(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    if context.options.verb.is_some() {
        return Err(become_real(context, std::env::args_os().skip(1), None).into());
    }
    // Released when this process becomes the real program, which takes it again.
    let Some(_lock) = session::lock(context)? else {
        return Err(become_real(context, std::iter::once(OsString::from("attach")), None).into());
    };
    signals::leave_when_asked()?;
    // An interrupted run is completed or rolled back without the network, by the installed program.
    let interrupted =
        Journal::read(context.paths)?.is_some_and(|past| past.was_interrupted() && past.has_changed_something());
    if interrupted {
        return Err(become_real(context, std::env::args_os().skip(1), None).into());
    }
    session::begin(context, events)?;
    let mode = context.options.mode();
    let ours = |step| matches!(step, Step::Refresh | Step::SelfUpdate);
    drive(Step::Refresh, ours, mode, events, |step, events| {
        if step == Step::Refresh {
            package_locks::wait(context.paths.root(), context.config.time_limits.lock, events)?;
            apt::update(context.config.time_limits.source, &mut events.apt_status())?;
        } else {
            self_update::run(context, events)?;
        }
        Ok(Outcome::Done)
    })?;
    Err(become_real(context, std::env::args_os().skip(1), session::variable(events)).into())
}

/// Becomes the program that is on disk now. Returns the error if that fails.
fn become_real(
    context: &Context<'_>,
    arguments: impl Iterator<Item = OsString>,
    run: Option<(&'static str, OsString)>,
) -> anyhow::Error {
    let real = context.paths.real_program();
    let error = Program::become_program(&real, arguments, run);
    anyhow::Error::new(error).context(
        Failure::new(format!("{}: cannot be started", real.display()))
            .remedy(format!("Install it again: `apt-get install --reinstall {}`.", context.paths.package())),
    )
}
