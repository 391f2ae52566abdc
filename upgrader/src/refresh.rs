use anyhow::{Context as _, Result};

use crate::apt;
use crate::cli::Context;
use crate::command::Program;
use crate::dpkg;
use crate::event::{Event, Events};
use crate::exit::{Exit, Failure, Stopped};
use crate::lock::Lock;
use crate::step::{Mode, Step};

/// `NAME-upgrade`: reads the package lists, upgrades its own package, and becomes the `real-NAME-upgrade` that is on disk
/// then, with the same arguments. Returns only if it fails.
pub fn run(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    // Given back when the real program takes over, which takes it again.
    let lock = Lock::take(&context.paths.lock())?;
    events.tell(Event::Began(Step::Refresh));
    apt::update(&mut events.output_of("apt-get"))?;
    events.tell(Event::Ended(Step::Refresh));

    events.tell(Event::Began(Step::SelfUpdate));
    self_update(context, events)?;
    events.tell(Event::Ended(Step::SelfUpdate));

    drop(lock);
    let real = context.paths.real_program();
    let error = Program::become_program(&real, std::env::args_os().skip(1));
    let failure = Failure::new(format!("{}: cannot be started", real.display()))
        .remedy(format!("Install it again: `apt-get install --reinstall {}`.", context.paths.package()));
    Err(anyhow::Error::new(error).context(failure).into())
}

fn self_update(context: &Context<'_>, events: &mut Events<'_>) -> Result<()> {
    let package = context.paths.package();
    // Put there by hand, without a package: then there is nothing that apt could bring up to date.
    let Some(from) = dpkg::installed_version(&package)? else { return Ok(()) };
    let Some(to) = apt::candidate(&package)?.filter(|candidate| *candidate != from) else { return Ok(()) };
    let applied = context.options.mode() != Mode::DryRun;
    events.tell(Event::SelfUpdate { package: package.clone(), from, to, applied });
    if applied {
        let conffiles = context.product.packages.conffiles;
        apt::upgrade_only(&package, conffiles, &mut events.output_of("apt-get")).with_context(|| {
            Failure::new(format!("{package} could not update itself"))
                .remedy(format!("`apt-get install {package}` shows the same without this program; then start again."))
        })?;
    }
    Ok(())
}
