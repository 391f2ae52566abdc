//! Checks the product's units, and programs that would restart them during the upgrade.

use anyhow::Result;

use super::Finding;
use crate::system::systemd;

/// The units of monitors that restart services.
const MONITORS: [&str; 5] = ["monit", "watchdog", "puppet", "salt-minion", "cfengine3"];

/// Checks that systemd knows the product's services, and finds monitors that would restart them during the upgrade.
pub(super) fn check(services: &[String]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let all: Vec<&str> = services.iter().map(String::as_str).chain(MONITORS).collect();
    let units = systemd::show(&all)?;
    let (units, monitors) = units.split_at(services.len());
    for (service, unit) in services.iter().zip(units) {
        let (what, remedy) = match unit.load.as_str() {
            "not-found" => (
                format!("systemd knows no service {service}: it must come with the upgrade"),
                format!(
                    "If it should be there already, `systemctl status {service}` and its package tell why it is not."
                ),
            ),
            "masked" => (
                format!("the service {service} is masked: it will not be started"),
                format!("If that is not meant: `systemctl unmask {service}`."),
            ),
            "bad-setting" | "error" => (
                format!("the unit file of {service} is not one that systemd can read"),
                format!("`systemctl status {service}` says what is wrong with it."),
            ),
            _ => continue,
        };
        findings.push(Finding::note(what, remedy));
    }
    for (monitor, unit) in MONITORS.iter().zip(monitors) {
        if unit.is_active() {
            findings.push(Finding::note(
                format!("{monitor} is running: it may restart services in the middle of the upgrade"),
                format!(
                    "Stop it for as long as the upgrade takes: `systemctl stop {monitor}`, and start it afterwards."
                ),
            ));
        }
    }
    Ok(findings)
}
