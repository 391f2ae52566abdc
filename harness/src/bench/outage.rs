//! Measures the outage of the services.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::exchange::Exchange;
use super::sheet::{Sheet, median};
use crate::faults::crash::next_debian::{SERVICES as REAL_SERVICES, with_services};
use crate::machines::image::Debian;
use crate::machines::machine::Storage;
use crate::observe::timeline::{Events, Mark};
use crate::packages::package::Package;
use crate::packages::repository_fault::{Affected, RepositoryFault, ServerFault};
use crate::packages::shipped::SERVICES;

/// How much longer a service may be away than with `systemctl restart`, in milliseconds.
const LIMIT_OF_A_SERVICE: f64 = 2.0;

/// The limit for real services, as a multiple of `systemctl restart`.
const LIMIT_OF_REAL_SERVICES: f64 = 1.05;

/// How often it is measured: what is compared is short, and what else a host does weighs more than anywhere else.
const RUNS: usize = 9;

/// A slow mirror, in bytes a second.
const SLOW: u32 = 50_000;

/// What the slow mirror has to bring beside the small packages, in bytes: four seconds.
const BALLAST: usize = 200_000;

/// Compares restarts after the same upgrade: the first start of a new program takes longer than the next one.
pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    let mut exchange = Exchange::new(debian, Storage::Host)?;
    for (mirror, rate, ballast) in [("", None, 0), (" from a mirror with 50 kB/s", Some(SLOW), BALLAST)] {
        sheet.title(&format!(
            "Outage of all services in an upgrade{mirror}, beside an ordered systemctl restart after the same upgrade"
        ))?;
        exchange.world.clear_fault()?;
        if let Some(rate) = rate {
            exchange.world.inject(RepositoryFault::new(ServerFault::Slow(rate), Affected::Packages))?;
        }
        let mut pairs = Vec::new();
        for run in 0..RUNS {
            let mut pair = [Duration::ZERO; 2];
            for which in [run % 2, 1 - run % 2] {
                exchange.publish_next(ballast)?;
                pair[which] = if which == 0 {
                    exchange.bare_upgrade_of_packages()?;
                    exchange.outage(|exchange| exchange.bare_restart())?
                } else {
                    exchange.outage(|exchange| exchange.upgrade().map(drop))?
                };
            }
            pairs.push(pair);
        }
        sheet.pairs(["bare restart", "upgrade"], &pairs, None)?;
        let services = f64::from(u32::try_from(SERVICES.len())?);
        let more = |[bare, ours]: &[Duration; 2]| (ours.as_secs_f64() - bare.as_secs_f64()) * 1e3 / services;
        sheet.limited("more for each service", median(pairs.iter().map(more).collect()), LIMIT_OF_A_SERVICE, "ms")?;
    }
    Ok(())
}

/// The same with PostgreSQL, nginx and sshd of Debian.
pub(super) fn measure_real(sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title("Outage of PostgreSQL, nginx, sshd and cron in an upgrade, beside an ordered systemctl restart")?;
    let mut world = with_services(Storage::Host)?;
    let mut pairs = Vec::new();
    for run in 0..RUNS {
        let mut pair = [Duration::ZERO; 2];
        for which in [run % 2, 1 - run % 2] {
            world.publish([&Package::new("xivo", &format!("1.{}", 2 * run + which + 1))])?;
            world.machine.sh(&format!("systemctl reset-failed {}", REAL_SERVICES.join(" ")))?;
            let bare = format!(
                "apt-get -q update; apt-get -qy dist-upgrade; for service in {}; do systemctl restart $service; done",
                REAL_SERVICES.join(" ")
            );
            let mark = Mark::set(&world.machine)?;
            if which == 0 {
                world.machine.sh(&bare)?;
            } else {
                world.upgrade(&["--yes"]).exits(0)?;
            }
            let happened = Events::since(&mark, &world.machine, &REAL_SERVICES)?;
            let away: Option<Vec<Duration>> = happened.outages.values().copied().collect();
            let away = away.with_context(|| format!("a service is still away: {happened}"))?;
            ensure!(away.len() == REAL_SERVICES.len(), "not every service was restarted: {happened}");
            pair[which] = away.iter().sum();
        }
        pairs.push(pair);
    }
    sheet.pairs(["bare restart", "upgrade"], &pairs, Some(LIMIT_OF_REAL_SERVICES))
}
