use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};

use crate::command::Program;
use crate::product::{Ready, RestartPolicy, Services};

/// How often a readiness command is run again.
const READY_INTERVAL: Duration = Duration::from_millis(200);

/// A service's turn in a restart.
#[derive(Debug)]
pub enum Turn {
    /// It is about to be restarted, or started where all were stopped before.
    Began,
    /// It is up and ready, or is not.
    Ended(Result<()>),
}

/// Restarts the services as their policy says. One that does not come up does not keep the others down.
pub fn restart_all(services: &Services, tell: &mut dyn FnMut(&str, Turn)) {
    if services.restart == RestartPolicy::StopThenStart {
        for service in services.order().iter().rev() {
            // What could not be stopped is restarted below, and shows then.
            let _ = systemctl(&["stop", service]);
        }
    }
    for service in services.order() {
        tell(service, Turn::Began);
        tell(service, Turn::Ended(restart(service, services.ready(service))));
    }
}

/// The states of units as systemd names them, in the order of the units: `active`, `failed`, `inactive` …
pub fn active_states(units: &[String]) -> Result<Vec<String>> {
    properties(units, "ActiveState")
}

/// A property of each of these units, in their order. It must be one that is never empty.
pub fn properties(units: &[String], property: &str) -> Result<Vec<String>> {
    let values =
        Program::new("systemctl").args(["show", "--property", property, "--value", "--"]).args(units).output()?;
    // One line for each unit, with an empty one between them.
    let values: Vec<String> = values.lines().filter(|value| !value.is_empty()).map(str::to_owned).collect();
    ensure!(values.len() == units.len(), "systemctl gave {} values for {} units", values.len(), units.len());
    Ok(values)
}

/// Restarts a service (starts one that is down) and waits until it is up and ready.
fn restart(service: &str, ready: Option<&Ready>) -> Result<()> {
    if let Err(error) = systemctl(&["restart", service]) {
        // systemctl only says where to read on; systemd knows the reason in a word.
        return match (property(service, "ActiveState")?.as_str(), property(service, "Result")?.as_str()) {
            ("failed", reason) => Err(anyhow!("failed ({reason})")),
            _ => Err(error),
        };
    }
    ready.map_or(Ok(()), wait_until_ready)
}

fn property(unit: &str, property: &str) -> Result<String> {
    let value = Program::new("systemctl").args(["show", "--property", property, "--value", "--", unit]).output()?;
    Ok(value.trim().to_owned())
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    Program::new("systemctl").setting("--no-pager").args(arguments).lines(&mut |_| ())
}

fn wait_until_ready(ready: &Ready) -> Result<()> {
    let deadline = Instant::now() + ready.timeout;
    let Some((program, arguments)) = ready.command.split_first() else { return Ok(()) };
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        if Program::new(program).args(arguments).time_limit(left).succeeds()? {
            return Ok(());
        }
        sleep(READY_INTERVAL);
    }
    bail!("not ready after {:?}: {}", ready.timeout, ready.command.join(" "))
}
