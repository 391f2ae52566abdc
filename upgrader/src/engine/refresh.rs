//! `NAME-upgrade`: refresh, update itself, become the real one.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;

use anyhow::{Context as _, Result};

use crate::cli::Context;
use crate::engine::journal::Journal;
use crate::engine::run;
use crate::exit::{Exit, Explain as _, Failure, Stopped};
use crate::model::event::{Event, Events, Fate};
use crate::model::package::Package;
use crate::model::policy::ConffilePolicy;
use crate::model::step::{Mode, Outcome, Step};
use crate::output::session;
use crate::paths::Paths;
use crate::system::apt;
use crate::system::command::Program;
use crate::system::dpkg;
use crate::system::package_locks;
use crate::system::signals;

/// `NAME-upgrade`: reads the package lists, upgrades its own package, and becomes the `real-NAME-upgrade` that is on disk
/// then, with the same arguments. Returns only if it fails.
///
/// It can do without product.toml: a new package must be able to repair a broken one.
pub fn run(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    if context.options.verb.is_some() {
        return Err(become_real(context, std::env::args_os().skip(1), None).into());
    }
    // Given back when the real program takes over, which takes it again.
    let Some(_lock) = run::lock(context)? else {
        return Err(become_real(context, std::iter::once(OsString::from("attach")), None).into());
    };
    signals::leave_when_asked()?;
    // What was cut short is completed or undone with what is there, network or not, and by the program that is there.
    let cut_short =
        Journal::read(context.paths)?.is_some_and(|past| past.was_cut_short() && past.has_changed_something());
    if cut_short {
        return Err(become_real(context, std::env::args_os().skip(1), None).into());
    }
    session::begin(context, events)?;
    let mode = context.options.mode();
    let ours = |step| matches!(step, Step::Refresh | Step::SelfUpdate);
    run::drive(Step::Refresh, ours, mode, events, |step, events| {
        if step == Step::Refresh {
            package_locks::wait(context.paths.root(), context.config.time_limits.lock, events)?;
            apt::update(context.config.time_limits.source, &mut events.news_of_apt())?;
        } else {
            self_update(context, events)?;
        }
        Ok(Outcome::Done)
    })?;
    Err(become_real(context, std::env::args_os().skip(1), session::variable(events)).into())
}

/// Finishes an update of the upgrader's own package that was cut short. Its conffiles are the admin's own settings: they stay.
pub fn finish_self_update(paths: &Paths, events: &mut Events<'_>) -> Result<()> {
    let (note, package) = (paths.self_update(), paths.package());
    if !note.try_exists()? {
        return Ok(());
    }
    let state = || dpkg::packages().map(|packages| packages.into_iter().find(|found| found.name == package));
    let is_whole = |state: Option<Package>| state.is_none_or(|state| state.status == "installed");
    events.tell(Event::Output {
        source: package.clone(),
        line: "dpkg was interrupted in the middle of this package".to_owned(),
    });
    // Complains of a package that is whole: what it had not yet put into its database is there then.
    let _ = dpkg::configure(&package, ConffilePolicy::Keep, &mut events.output_of("dpkg"));
    if !is_whole(state()?) {
        apt::reinstall(&package, ConffilePolicy::Keep, &mut events.news_of_apt())
            .explain(|| cannot_update(&package))?;
    }
    match std::fs::remove_file(note) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Notes on disk that the upgrader's own package is about to be replaced.
fn note_self_update(paths: &Paths) -> Result<()> {
    let note = paths.self_update();
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(paths.state())?;
        File::create(&note)?.sync_all()?;
        File::open(paths.state())?.sync_all()
    };
    write().with_context(|| note.display().to_string())
}

fn cannot_update(package: &str) -> Failure {
    Failure::new(format!("{package} could not update itself"))
        .remedy(format!("`apt-get install {package}` shows the same without this program; then start again."))
}

fn self_update(context: &Context<'_>, events: &mut Events<'_>) -> Result<()> {
    let package = context.paths.package();
    if context.options.mode() != Mode::DryRun {
        finish_self_update(context.paths, events)?;
    }
    // Put there by hand, without a package: then there is nothing that apt could bring up to date.
    let Some(from) = dpkg::installed_version(&package)? else { return Ok(()) };
    let Some(to) = apt::candidate(&package)?.filter(|candidate| *candidate != from) else { return Ok(()) };
    // A pin may point to an older one.
    if !dpkg::is_newer(&to, &from)? {
        return Ok(());
    }
    let fate = if dpkg::is_held(&package)? {
        Fate::Held
    } else if context.options.mode() == Mode::DryRun {
        Fate::DryRun
    } else {
        Fate::Installed
    };
    events.tell(Event::SelfUpdate { package: package.clone(), from, to, fate });
    if fate == Fate::Installed {
        let failure = || cannot_update(&package);
        apt::download_only(&package, context.config.time_limits.source, &mut events.news_of_apt()).explain(failure)?;
        // dpkg must not lose the reader of what it says; it takes a moment.
        signals::shield()?;
        note_self_update(context.paths).explain(failure)?;
        if dpkg::was_interrupted(context.paths)? {
            // apt does nothing before that is in order; what is left of it is for after the question.
            let _ = dpkg::configure(&package, ConffilePolicy::Keep, &mut events.output_of("dpkg"));
        }
        // The conffiles of this package are the admin's own settings: whatever the product says of others, these stay.
        apt::upgrade_only(&package, ConffilePolicy::Keep, &mut events.news_of_apt()).explain(failure)?;
        let _ = std::fs::remove_file(context.paths.self_update());
    }
    Ok(())
}

/// Becomes the program that is on disk now. Gives the reason if that fails.
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
