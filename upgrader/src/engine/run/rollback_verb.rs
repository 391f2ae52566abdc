//! `NAME-upgrade rollback`, and its offer after an upgrade that failed. The steps of a rollback are in `rollback`.

use std::ffi::OsString;
use std::io::{IsTerminal as _, stdin};

use anyhow::{Context as _, Result};

use super::Run;
use crate::config::settings::RollbackPolicy;
use crate::context::Context;
use crate::engine::journal::{self, Journal, PastRun};
use crate::exit::{Exit, Failure, Stopped};
use crate::model::event::{Event, RollbackPreview};
use crate::model::events::Events;
use crate::model::step::Step;
use crate::output::question::{self, Choice};
use crate::rollback::{self, Store};
use crate::system::command::Program;
use crate::system::lock::Lock;
use crate::system::{dpkg, package_locks};

pub(super) fn run(mut run: Run<'_>, lock: Lock, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let (context, product) = (run.context, run.product);
    if Journal::read(context.paths)?.is_some_and(|past| !past.has_changed_something()) {
        run.forget(events)?;
    }
    journal::discard_expired(context.paths, context.config.keep.rollback_days)?;
    let (past, store) = revertible(&run)?;
    package_locks::wait(context.paths.root(), context.config.time_limits.lock, events)?;
    let back = RollbackPreview {
        product: product.name.clone(),
        from: dpkg::installed_version(&product.version_package)?,
        to: past.plan.comes_from().to_owned(),
        since: past.last,
        changed_since: store
            .since()?
            .iter()
            .filter(|difference| difference.matters())
            .map(ToString::to_string)
            .collect(),
        packages_since: store.packages_since()?,
        database: past.dump.as_ref().and(product.database.as_ref()).map(|database| database.name.clone()),
    };
    events.emit(Event::RollbackPreview(back.clone()));
    if !context.options.yes {
        let question = format!("Would you like to roll back to {} {} now?", back.product, back.to);
        let yes = question::prompt(&question, None, context.options) == Choice::Yes;
        events.emit(Event::Answered(yes));
        if !yes {
            return Ok(Run::decline(format!("{} was not changed.", back.product), events));
        }
    }
    events.emit(Event::RollingBack { product: back.product, to: back.to });
    run.hand_over(lock, Step::RollBack, events)
}

/// Continues as `NAME-upgrade rollback` after a failed upgrade, if the settings say "ask" and there is a terminal.
pub(super) fn offer(context: &Context<'_>, exit: Exit) -> Result<Exit, Stopped> {
    let is_asked = context.config.rollback == RollbackPolicy::Ask && !context.options.yes && stdin().is_terminal();
    if exit == Exit::NeedsHuman && is_asked && journal::revertible(context.paths)?.is_some() {
        let verb = std::iter::once(OsString::from("rollback"));
        let error = Program::become_program(&context.paths.real_program(), verb, None);
        return Err(anyhow::Error::new(error).into());
    }
    Ok(exit)
}

/// The run to roll back, and its rollback data.
///
/// # Errors
/// If there is none, or it is damaged.
fn revertible(run: &Run<'_>) -> Result<(PastRun, Store)> {
    let paths = run.context.paths;
    let nothing = || {
        let days = run.context.config.keep.rollback_days;
        let message =
            format!("no upgrade to roll back: rollback data is kept for {days} days or until the next upgrade");
        Failure::new(message).remedy(format!("`{} history` shows the last upgrades.", paths.package()))
    };
    let (past, store) = journal::revertible(paths)?.zip(rollback::open(paths)?).with_context(nothing)?;
    Run::judge(&store, paths.log().display())?;
    Ok((past, store))
}
