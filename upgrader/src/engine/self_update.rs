//! Updates the upgrader's own package, and completes an interrupted update of it.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::exit::{Explain as _, Failure};
use crate::files;
use crate::model::event::{Event, SelfUpdateOutcome};
use crate::model::events::Events;
use crate::model::policy::ConffilePolicy;
use crate::model::step::Mode;
use crate::model::version::is_newer;
use crate::paths::Paths;
use crate::system::{apt, dpkg, filesystems, remove_file, signals};

/// Completes an interrupted update of the upgrader's own package. Keeps its conffiles: they are the admin's settings.
pub(crate) fn finish(paths: &Paths, timeout: Duration, events: &mut Events<'_>) -> Result<()> {
    let (note, package) = (paths.self_update(), paths.package());
    if !files::exists(&note) {
        return Ok(());
    }
    events.emit(Event::Output {
        source: package.clone(),
        line: "dpkg was interrupted in the middle of this package".to_owned(),
    });
    // Fails if the package is configured already, but processes dpkg's pending updates.
    let _ = dpkg::configure(&package, ConffilePolicy::Keep, &mut events.output_of("dpkg"));
    let state = dpkg::packages()?.into_iter().find(|found| found.name == package);
    if state.is_some_and(|state| state.status != "installed") {
        apt::reinstall(&package, ConffilePolicy::Keep, timeout, &mut events.apt_status())
            .explain(|| cannot_update(&package))?;
    }
    filesystems::sync().explain(|| cannot_update(&package))?;
    Ok(remove_file(&note)?)
}

fn note_self_update(paths: &Paths) -> Result<()> {
    let note = paths.self_update();
    let write = || files::make_own(&paths.state()).and_then(|()| files::replace(&note, 0o600, b""));
    write().with_context(|| note.display().to_string())
}

fn cannot_update(package: &str) -> Failure {
    Failure::new(format!("{package} could not update itself"))
        .remedy(format!("`apt-get install {package}` shows the same without this program; then start again."))
}

/// The step: upgrades the upgrader's own package.
pub(crate) fn run(context: &Context<'_>, events: &mut Events<'_>) -> Result<()> {
    let package = context.paths.package();
    if context.options.mode() != Mode::DryRun {
        finish(context.paths, context.config.time_limits.source, events)?;
    }
    // Installed without a package: nothing to upgrade.
    let Some(from) = dpkg::installed_version(&package)? else { return Ok(()) };
    // A pin may point to an older one.
    let Some(to) = apt::versions(&package)?.candidate.filter(|candidate| is_newer(candidate, &from)) else {
        return Ok(());
    };
    let outcome = if dpkg::is_held(&package)? {
        SelfUpdateOutcome::Held
    } else if context.options.mode() == Mode::DryRun {
        SelfUpdateOutcome::DryRun
    } else {
        SelfUpdateOutcome::Installed
    };
    events.emit(Event::SelfUpdate { package: package.clone(), from, to, outcome });
    if outcome == SelfUpdateOutcome::Installed {
        let failure = || cannot_update(&package);
        apt::download_only(&package, context.config.time_limits.source, &mut events.apt_status()).explain(failure)?;
        // dpkg must not lose the reader of its output.
        signals::shield()?;
        note_self_update(context.paths).explain(failure)?;
        if dpkg::was_interrupted(context.paths)? {
            // apt refuses to work before that. The rest follows after the question.
            let _ = dpkg::configure(&package, ConffilePolicy::Keep, &mut events.output_of("dpkg"));
        }
        // Keeps the admin's settings, whatever the policy for conffiles is.
        apt::upgrade_only(&package, ConffilePolicy::Keep, &mut events.apt_status()).explain(failure)?;
        filesystems::sync().explain(failure)?;
        let _ = remove_file(&context.paths.self_update());
    }
    Ok(())
}
