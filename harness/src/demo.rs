//! Shows an upgrade on a terminal: `make demo`.

use std::io::Write;

use anyhow::{Result, ensure};

use crate::machines::image::Debian;
use crate::machines::product_machine;
use crate::observe::inventory::SystemState;
use crate::observe::timeline::{Events, Mark};
use crate::packages::shipped::SERVICES;

/// Boots an exchange at 1.2.1, shows its upgrade to 1.2.2, and prints what was observed from outside.
pub fn run(debian: Debian, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "== A Debian {debian} machine boots and installs XiVO 1.2.1 from its repository")?;
    let world = product_machine::self_updating(debian)?;
    let before = SystemState::of(&world.machine, &SERVICES)?;
    for (name, service) in &before.services {
        writeln!(out, "   {name:<16} {} {}", service.state, service.version)?;
    }

    writeln!(out, "\n== XiVO 1.2.2 is published. The admin types: xivo-upgrade\n")?;
    let mark = Mark::set(&world.machine)?;
    let transcript = world.upgrade(&[]).answer("[Y/n] ", "y\n").live(out).run()?;

    let happened = Events::since(&mark, &world.machine, &SERVICES)?;
    let after = SystemState::of(&world.machine, &SERVICES)?;
    writeln!(out, "\n== What was observed from outside, exit code {}\n", transcript.exit)?;
    write!(out, "{happened}")?;
    writeln!(out, "Versions, installed and really running:")?;
    for package in ["xivo", "xivo-upgrade"] {
        writeln!(out, "  {package:<16} {} -> {}", version(&before, package), version(&after, package))?;
    }
    for service in SERVICES {
        let running = |state: &SystemState| state.services.get(service).map_or("-", |found| &found.version).to_owned();
        let outage = match happened.outages.get(service) {
            None => "never out of service".to_owned(),
            Some(None) => "STILL out of service".to_owned(),
            Some(Some(outage)) => format!("out of service for {:.0} ms", outage.as_secs_f64() * 1e3),
        };
        writeln!(out, "  {service:<16} {} -> {}   {outage}", running(&before), running(&after))?;
    }
    ensure!(transcript.exit == 0, "the upgrade ended with exit code {}", transcript.exit);
    Ok(())
}

fn version<'a>(state: &'a SystemState, package: &str) -> &'a str {
    state.packages.get(package).map_or("-", String::as_str)
}
