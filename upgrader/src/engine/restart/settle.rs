//! Watches restarted services until their settling time is over.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::system::journalctl;
use crate::system::systemd::{self, Unit};

/// How long to wait between two queries.
const INTERVAL: Duration = Duration::from_millis(500);

/// A service that came up and is expected to stay up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) of_product: bool,
    /// Its state just after the restart.
    pub(super) unit: Unit,
}

/// A service that did not stay up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) service: Watched,
    pub(super) reason: String,
    /// The last lines of its log, from before it went down.
    pub(super) log: Vec<String>,
}

/// Watches services until `end`, or until one of the product is gone.
pub(super) fn watch(mut services: Vec<Watched>, end: Instant) -> Result<Vec<Gone>> {
    let mut gone: Vec<Gone> = Vec::new();
    loop {
        let left = end.checked_duration_since(Instant::now());
        let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
        let now = systemd::show(&names)?;
        for (service, unit) in services.iter().zip(&now) {
            if let Some(reason) = what_is_wrong(&service.unit, unit) {
                let log = journalctl::last_lines(&service.unit);
                gone.push(Gone { service: service.clone(), reason, log });
            }
        }
        services.retain(|service| !gone.iter().any(|gone| gone.service == *service));
        let Some(left) = left.filter(|_| !services.is_empty() && !gone.iter().any(|gone| gone.service.of_product))
        else {
            return Ok(gone);
        };
        sleep(left.min(INTERVAL));
    }
}

/// Why a unit is not well `now`, compared with its state `before`.
fn what_is_wrong(before: &Unit, now: &Unit) -> Option<String> {
    // Between the end of a service and its restart systemd calls it activating.
    if now.restarts > before.restarts || now.active == "activating" {
        return Some("did not stay up: systemd had to restart it".to_owned());
    }
    (!now.is_active() && !now.is_done()).then(|| how_it_ended(now))
}

/// How a unit ended, in the terms of systemd.
pub(super) fn how_it_ended(unit: &Unit) -> String {
    match unit.result.as_str() {
        "" | "success" => unit.active.clone(),
        result => format!("failed ({result})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: &str, result: &str, restarts: u64) -> Unit {
        Unit { active: active.to_owned(), result: result.to_owned(), restarts, ..Unit::default() }
    }

    #[test]
    fn a_service_that_went_down_or_had_to_be_restarted_is_noticed() {
        let before = unit("active", "success", 1);
        for (now, wrong) in [
            (unit("active", "success", 1), None),
            (unit("reloading", "success", 1), None),
            // The admin has restarted it: systemd counts from 0 again.
            (unit("active", "success", 0), None),
            (unit("inactive", "success", 1), Some("inactive")),
            (unit("failed", "exit-code", 1), Some("failed (exit-code)")),
            (unit("activating", "exit-code", 1), Some("did not stay up: systemd had to restart it")),
            (unit("active", "success", 2), Some("did not stay up: systemd had to restart it")),
        ] {
            assert_eq!(what_is_wrong(&before, &now).as_deref(), wrong, "{now:?}");
        }
    }

    #[test]
    fn without_services_there_is_no_wait() {
        assert_eq!(watch(Vec::new(), Instant::now() + Duration::from_secs(3600)).expect("no unit to query"), []);
    }
}
