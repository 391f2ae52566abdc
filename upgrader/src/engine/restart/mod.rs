//! Restarts the services: the product's in order, then all others that run replaced files. Then checks that they stay up.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::settle::{Watched, how_it_ended, watch};
use crate::config::product::{Ready, RestartPolicy, Services};
use crate::exit::Failure;
use crate::model::event::Event;
use crate::model::events::Events;
use crate::system::command::Program;
use crate::system::journalctl;
use crate::system::processes::{Obsolete, Processes};
use crate::system::systemd::{self, Unit};

mod live;
mod settle;

/// How long to wait between two runs of a readiness command.
const READY_INTERVAL: Duration = Duration::from_millis(200);

/// The types of services whose restart succeeds only when they are up (systemd.service(5)). Others are looked at after it.
const TELL_WHEN_UP: [&str; 5] = ["dbus", "forking", "notify", "notify-reload", "oneshot"];

/// The reason for a recommended restart if a process with replaced files survived the restart of its service.
const OUTLIVED: &str = "an old process still runs (KillMode=process); stop it or reboot";

/// The result of the restarts.
#[derive(Debug, Default)]
pub(crate) struct Restarted {
    /// The services that came up, and their state just after that.
    watched: Vec<Watched>,
    /// The product's services that are not up.
    down: Vec<String>,
    /// The product's services that the admin has disabled or masked.
    skipped: Vec<String>,
    /// When the last restart ended.
    last: Option<Instant>,
}

/// Restarts the product's services as declared, then every other service that runs replaced files; each of them once. If one does
/// not come up, the others are still restarted; [`Restarted::verify`] fails after that.
pub(crate) fn restart_all(services: &Services, processes: &Processes, events: &mut Events<'_>) -> Result<Restarted> {
    let mut restarted = Restarted::default();
    let before = processes.obsolete().unwrap_or_default();
    let product = restarted.product(services, events)?;
    // The product is restarted: an error with other services does not fail the upgrade.
    if let Err(error) = restarted.others(processes, &before, &product, events) {
        let message = format!("Other services that still run replaced files could not be found: {error:#}");
        events.attention(message, "Reboot the machine.");
    }
    Ok(restarted)
}

/// Restarts the services after a rollback: skips services that only the newer version has, and starts the units that were active
/// before the upgrade.
pub(crate) fn restart_old(
    services: &Services,
    were_active: &[String],
    processes: &Processes,
    events: &mut Events<'_>,
) -> Result<Restarted> {
    let units = systemd::show(&services.order)?;
    let known = services.order.iter().zip(&units).filter(|(_, unit)| verdict(unit) != Verdict::Missing);
    let known = services.only(&known.map(|(service, _)| service.clone()).collect::<Vec<_>>());
    let mut restarted = restart_all(&known, processes, events)?;
    let was_restarted = |unit: &Unit| units.iter().any(|of_product| of_product.id == unit.id);
    for unit in systemd::show(were_active)?.iter().filter(|unit| was_stopped(unit) && !was_restarted(unit)) {
        if unit.id.ends_with(".service") {
            restarted.restart_one(&short(&unit.id), "", false, None, None, events);
        } else if let Err(error) = systemd::start(&unit.id) {
            let message = format!("{} does not start: {error:#}", unit.id);
            events.attention(message, format!("`systemctl status {}` shows why.", unit.id));
        }
    }
    Ok(restarted)
}

/// True for a unit that the upgrade has stopped. Units of user sessions come and go without it.
fn was_stopped(unit: &Unit) -> bool {
    unit.load == "loaded" && !unit.is_active() && !unit.is_done() && !unit.transient && !unit.id.starts_with("user")
}

/// The services as they are now, for [`Restarted::verify`] to watch: the interrupted run has restarted them already.
pub(crate) fn as_they_are(services: &Services) -> Result<Restarted> {
    let mut restarted = Restarted::default();
    for (service, unit) in services.order.iter().zip(systemd::show(&services.order)?) {
        match verdict(&unit) {
            Verdict::Skip(_) => restarted.skipped.push(service.clone()),
            Verdict::Missing => restarted.down.push(service.clone()),
            Verdict::Restart => restarted.watched.push(Watched { name: service.clone(), of_product: true, unit }),
        }
    }
    Ok(restarted)
}

/// The services that will be restarted. One without a unit counts: the upgrade may install it.
pub(crate) fn wanted(services: &Services) -> Result<Vec<String>> {
    let units = systemd::show(&services.order)?;
    let wanted = services.order.iter().zip(&units).filter(|(_, unit)| !matches!(verdict(unit), Verdict::Skip(_)));
    Ok(wanted.map(|(service, _)| service.clone()).collect())
}

/// Whether a service of the product is restarted.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Restart,
    Skip(&'static str),
    Missing,
}

impl Restarted {
    /// `all 8 services are running`.
    pub(crate) fn summary(&self, services: &Services) -> String {
        let all = services.order.len();
        match self.skipped.len() {
            0 if all == 1 => "its service is running".to_owned(),
            0 => format!("all {all} services are running"),
            left => format!(
                "{} of {all} services are running (disabled by the admin: {})",
                all - left.min(all),
                self.skipped.join(" ")
            ),
        }
    }

    /// Watches the services until they have been up for the product's settling time, and emits which did not stay up. The error
    /// begins with what was `done`: `the packages are upgraded`.
    ///
    /// # Errors
    /// If one of the product's services is not up.
    pub(crate) fn verify(&mut self, done: &str, settle: Duration, events: &mut Events<'_>) -> Result<()> {
        // The run has failed already: no need to wait.
        let settle = if self.down.is_empty() { settle } else { Duration::ZERO };
        let end = self.last.unwrap_or_else(Instant::now) + settle;
        for gone in watch(self.watched.clone(), end)? {
            self.went_down(gone.service.of_product, &gone.service.name, gone.reason, gone.log, events);
        }
        if self.down.is_empty() {
            return Ok(());
        }
        let (down, is) = (self.down.join(" "), if self.down.len() == 1 { "is" } else { "are" });
        Err(Failure::new(format!("{done}, but {down} {is} not running"))
            .remedy(format!("`systemctl status {down}` shows why; fix the cause, then `systemctl restart {down}`."))
            .into())
    }

    /// Restarts the product's services. Returns the names of their units.
    fn product(&mut self, services: &Services, events: &mut Events<'_>) -> Result<Vec<String>> {
        let units = systemd::show(&services.order)?;
        let mut wanted = Vec::new();
        for (service, unit) in services.order.iter().zip(&units) {
            match verdict(unit) {
                // After one that is between two starts, systemd goes on counting.
                Verdict::Restart => {
                    let kind = if unit.is_active() { unit.kind.as_str() } else { "" };
                    wanted.push((service, kind, None));
                }
                Verdict::Skip(reason) => {
                    self.skipped.push(service.clone());
                    events.emit(Event::ServiceSkipped(service.clone(), reason.to_owned()));
                }
                Verdict::Missing => {
                    self.went_down(true, service, "there is no such unit".to_owned(), Vec::new(), events);
                }
            }
        }
        if services.restart == RestartPolicy::StopThenStart {
            for (service, _, stopped) in wanted.iter_mut().rev() {
                *stopped = Some(Instant::now());
                // An error shows when the service is restarted below.
                let _ = systemd::stop(service);
            }
        }
        for (service, kind, stopped) in wanted {
            self.restart_one(service, kind, true, stopped, services.ready(service), events);
        }
        self.look_at_all()?;
        Ok(units.into_iter().map(|unit| unit.id).collect())
    }

    /// Restarts other services that run replaced files, or emits why not. `before` ran them before the product was restarted.
    fn others(
        &mut self,
        processes: &Processes,
        before: &Obsolete,
        product: &[String],
        events: &mut Events<'_>,
    ) -> Result<()> {
        let found = processes.obsolete()?;
        let names: Vec<&String> = found.services.keys().filter(|unit| !product.contains(unit)).collect();
        let own = processes.own_service();
        let (mut recommended, mut restarting) = (Vec::new(), Vec::new());
        for (unit, name) in systemd::show(&names)?.iter().zip(names) {
            match live::why_not(unit, own.as_deref()) {
                Some(reason) => recommended.push((short(name), reason.to_owned())),
                None => restarting.push(name),
            }
        }
        if !restarting.is_empty() || found.manager.is_some() {
            events.emit(Event::OthersRestarting(restarting.iter().map(|name| short(name)).collect()));
        }
        for name in restarting {
            if found.services[name].iter().any(|process| processes.replaced_file(*process).is_some()) {
                self.restart_one(&short(name), "", false, None, None, events);
            } else {
                events.emit(Event::ServiceSkipped(short(name), "restarted together with another".to_owned()));
            }
        }
        if found.manager.is_some() {
            let result = systemd::reexecute().map_err(|error| format!("{error:#}"));
            events.emit(Event::ManagerReexecuted(result));
            if let Some(file) = processes.replaced_file(1) {
                recommended.push(("systemd".to_owned(), format!("it still runs {file} until the next reboot")));
            }
        }
        // With KillMode=process, systemd stops only the main process.
        let was_restarted = |unit: &&String| self.watched.iter().any(|service| service.unit.id == **unit);
        let now = processes.obsolete().unwrap_or_default();
        for unit in outlived(before, &now).into_iter().filter(was_restarted) {
            recommended.push((short(unit), OUTLIVED.to_owned()));
        }
        recommended.extend(found.sessions.into_iter().map(|unit| (unit, "log out and in again".to_owned())));
        recommended.extend(found.others.into_iter().map(|name| (name, "it was not started as a service".to_owned())));
        if !recommended.is_empty() {
            events.emit(Event::RestartRecommended(recommended));
        }
        Ok(())
    }

    /// Restarts one service of this type; an unknown type is empty. `stopped` is when its outage began, if it is stopped already.
    fn restart_one(
        &mut self,
        service: &str,
        kind: &str,
        of_product: bool,
        stopped: Option<Instant>,
        ready: Option<&Ready>,
        events: &mut Events<'_>,
    ) {
        events.emit(Event::ServiceRestarting(service.to_owned()));
        let began = stopped.unwrap_or_else(Instant::now);
        let result = bring_up(service, TELL_WHEN_UP.contains(&kind), ready);
        self.last = Some(Instant::now());
        match result {
            Ok(unit) => {
                let outage = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                events.emit(Event::ServiceUp { service: service.to_owned(), outage });
                self.watched.push(Watched { name: service.to_owned(), of_product, unit });
            }
            Err((reason, log)) => self.went_down(of_product, service, reason, log, events),
        }
    }

    /// Reads the state of the services that told by themselves when they were up, all at once. One that has crashed since was restarted
    /// by systemd, which counts from 0 after our restart of an active service.
    fn look_at_all(&mut self) -> Result<()> {
        let unknown: Vec<&mut Watched> = self.watched.iter_mut().filter(|service| service.unit.id.is_empty()).collect();
        let names: Vec<&str> = unknown.iter().map(|service| service.name.as_str()).collect();
        for (unit, service) in systemd::show(&names)?.into_iter().zip(unknown) {
            service.unit = Unit { restarts: 0, ..unit };
        }
        Ok(())
    }

    fn went_down(
        &mut self,
        of_product: bool,
        service: &str,
        reason: String,
        log: Vec<String>,
        events: &mut Events<'_>,
    ) {
        if of_product {
            self.down.push(service.to_owned());
        } else {
            events.attention(
                format!("{service} ran replaced files, was restarted and is not up"),
                format!("`systemctl status {service}` shows why; fix it, then `systemctl restart {service}`."),
            );
        }
        events.emit(Event::ServiceDown { service: service.to_owned(), reason, log });
    }
}

/// Restarts a service and waits until it is ready. Returns an empty state for one that `tells_when_up`. On failure returns the reason
/// and the last lines of its log.
fn bring_up(service: &str, tells_when_up: bool, ready: Option<&Ready>) -> Result<Unit, (String, Vec<String>)> {
    let result = systemd::restart(service);
    if result.is_ok() && tells_when_up && ready.is_none() {
        return Ok(Unit::default());
    }
    let shown = match result {
        Ok(()) => systemd::show(&[service]).map(|units| units.into_iter().next().unwrap_or_default()),
        Err(_) => systemd::show_failed(service),
    };
    let unit = shown.map_err(|error| (format!("{error:#}"), Vec::new()))?;
    let is_up = unit.is_active() || unit.is_done();
    let reason = match result {
        Ok(()) if !is_up => how_it_ended(&unit),
        Ok(()) => match ready.map_or(Ok(()), wait_until_ready) {
            Ok(()) => return Ok(unit),
            Err(error) => format!("{error:#}"),
        },
        // The message of systemctl has no reason; the unit's result has.
        Err(_) if !matches!(unit.result.as_str(), "" | "success") => how_it_ended(&unit),
        Err(error) => format!("{error:#}"),
    };
    Err((reason, journalctl::last_lines(&unit)))
}

/// Runs the readiness command of a service until it succeeds.
fn wait_until_ready(ready: &Ready) -> Result<()> {
    let deadline = Instant::now() + ready.timeout;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        if Program::of_settings(&ready.command)?.time_limit(left).succeeds()? {
            return Ok(());
        }
        sleep(READY_INTERVAL);
    }
    bail!("not ready after {:?}: {}", ready.timeout, ready.command.join(" "))
}

/// The services of which a process runs replaced files `before` and after the restart.
fn outlived<'a>(before: &Obsolete, now: &'a Obsolete) -> Vec<&'a String> {
    let is_left = |(unit, processes): &(&String, &Vec<u32>)| {
        before.services.get(*unit).is_some_and(|then| processes.iter().any(|process| then.contains(process)))
    };
    now.services.iter().filter(is_left).map(|(unit, _)| unit).collect()
}

fn verdict(unit: &Unit) -> Verdict {
    match (unit.load.as_str(), unit.file.as_str(), unit.active.as_str()) {
        ("not-found", _, _) => Verdict::Missing,
        ("masked", _, _) => Verdict::Skip("masked"),
        (_, "disabled", "inactive" | "failed") => Verdict::Skip("disabled and not running"),
        _ => Verdict::Restart,
    }
}

/// `cron` for `cron.service`.
fn short(unit: &str) -> String {
    unit.strip_suffix(".service").unwrap_or(unit).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_replaced_files_that_is_as_old_as_the_upgrade_has_outlived_the_restart() {
        let services = |services: &[(&str, &[u32])]| Obsolete {
            services: services.iter().map(|(unit, processes)| ((*unit).to_owned(), processes.to_vec())).collect(),
            ..Obsolete::default()
        };
        let before = services(&[("a.service", &[1, 2]), ("b.service", &[3])]);
        // One process of a is still there. b deletes files that it maps at every start; so does c, which is new.
        let now = services(&[("a.service", &[2, 7]), ("b.service", &[8]), ("c.service", &[9])]);
        assert_eq!(outlived(&before, &now), ["a.service"]);
    }

    #[test]
    fn disabled_and_masked_services_are_skipped_and_running_ones_are_restarted() {
        let unit = |load: &str, file: &str, active: &str| Unit {
            load: load.to_owned(),
            file: file.to_owned(),
            active: active.to_owned(),
            ..Unit::default()
        };
        for (unit, expected) in [
            (unit("loaded", "enabled", "active"), Verdict::Restart),
            (unit("loaded", "enabled", "failed"), Verdict::Restart),
            (unit("loaded", "enabled", "inactive"), Verdict::Restart),
            (unit("loaded", "static", "inactive"), Verdict::Restart),
            (unit("loaded", "disabled", "active"), Verdict::Restart),
            (unit("loaded", "disabled", "inactive"), Verdict::Skip("disabled and not running")),
            (unit("loaded", "disabled", "failed"), Verdict::Skip("disabled and not running")),
            (unit("masked", "masked", "active"), Verdict::Skip("masked")),
            (unit("not-found", "", "inactive"), Verdict::Missing),
            // The restart fails, and shows the reason.
            (unit("bad-setting", "enabled", "inactive"), Verdict::Restart),
        ] {
            assert_eq!(verdict(&unit), expected, "{unit:?}");
        }
    }
}
