//! What is seen of a machine and of what happened on it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::machines::machine::Machine;
use crate::machines::product_machine::HOOK_MARKS;

/// systemd's message identifiers (sd-messages.h) for the turns in a unit's life.
const STOPPING: &str = "de5b426a63be47a7b6ac3eaac82e2f6f";
const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";

/// The state of a machine, seen from outside the upgrader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemState {
    /// Installed packages and their versions.
    pub packages: BTreeMap<String, String>,
    /// What dpkg would call half-done.
    pub unfinished: Vec<String>,
    /// The services, by name.
    pub services: BTreeMap<String, Service>,
}

/// A service of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// systemd's `ActiveState`.
    pub state: String,
    /// When its main process was started, in microseconds of the machine's monotonic clock.
    pub started: u64,
    /// The version that the running process says it is; empty if it does not run.
    pub version: String,
}

/// A moment: a place in the machine's journal, and in the marks of its hooks.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Seconds since 1970, by the machine's clock.
    pub(crate) time: String,
    cursor: String,
    /// How many hooks had left their mark by then.
    hooks: usize,
}

/// What happened on a machine since a [`Mark`], as its hooks and its systemd tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Happened {
    /// The hooks that ran, in order: `pre-upgrade 10-a (1.2.1 -> 1.2.2)`.
    pub hooks: Vec<String>,
    /// The stops of the product's services, in order.
    pub stops: Vec<String>,
    /// The starts of the product's services, in order.
    pub starts: Vec<String>,
    /// How long each service was down in all; `None` for one that went down and did not come back.
    pub outages: BTreeMap<String, Option<Duration>>,
    /// The stops and starts together, in order.
    pub turns: Vec<Turn>,
}

/// The stop or the start of a service, as systemd's journal has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// The service.
    pub service: String,
    /// Whether it was started.
    pub up: bool,
    /// When, in milliseconds since 1970.
    pub time: i64,
    /// When, in microseconds of the machine's monotonic clock.
    pub monotonic: u64,
}

impl SystemState {
    /// Looks at a machine and at these services of it.
    pub fn of(machine: &Machine, services: &[&str]) -> Result<Self> {
        Self::read(&machine.sh(&Self::script(services))?, services)
    }

    /// What prints all of it.
    pub(crate) fn script(services: &[&str]) -> String {
        let services_listed = services.join(" ");
        format!(
            "dpkg-query --show --showformat='${{Package}}\\t${{Version}}\\t${{db:Status-Status}}\\n'
            echo ==
            for service in {services_listed}; do
                printf '%s\\t%s\\n' $service \"$(cat /run/$service.running 2>/dev/null)\"
            done
            echo ==
            systemctl show --property=ActiveState,MainPID,ExecMainStartTimestampMonotonic -- {services_listed}"
        )
    }

    /// Reads what that printed.
    pub(crate) fn read(seen: &str, services: &[&str]) -> Result<Self> {
        let services_wanted = services.len();
        let mut sections = seen.split("==\n");
        let mut section = || sections.next().context("the machine said less than it was asked");
        let mut packages = BTreeMap::new();
        let mut unfinished = Vec::new();
        for fields in section()?.lines().map(fields) {
            let [name, version, status] = fields?;
            if status != "installed" && status != "config-files" && status != "not-installed" {
                unfinished.push(format!("{name} {status}"));
            }
            if status == "installed" {
                packages.insert(name, version);
            }
        }
        let running = section()?.lines();
        // systemctl gives a paragraph for each unit, in the order they were named in.
        let services = running
            .zip(section()?.split("\n\n"))
            .map(|(running, properties)| {
                let [name, running] = fields(running)?;
                let property = |name: &str| {
                    properties.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
                };
                let (process, version) = running.split_once(' ').unwrap_or_default();
                let service = Service {
                    state: property("ActiveState").to_owned(),
                    started: property("ExecMainStartTimestampMonotonic").parse()?,
                    // What an earlier process wrote says nothing about the one that runs now.
                    version: if process == property("MainPID") { version.to_owned() } else { String::new() },
                };
                Ok((name, service))
            })
            .collect::<Result<BTreeMap<_, _>>>()?;
        ensure!(services.len() == services_wanted, "the machine told of {} services", services.len());
        Ok(Self { packages, unfinished, services })
    }
}

/// A fingerprint of every path below /etc and /usr of a machine: type, mode, owner, link target, size, inode, and the time
/// of its last change, which nobody can set back; and the content of everything below /etc.
pub fn fingerprint(machine: &Machine) -> Result<String> {
    machine.sh(FINGERPRINT)
}

/// What prints it.
pub(crate) const FINGERPRINT: &str = "bash -euo pipefail <<'END'
    { find /etc /usr -printf '%p %y %m %U:%G %l %s %i %C@\\n' | LC_ALL=C sort
      find /etc -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; } | sha256sum
END";

/// The fields of a line of a listing.
fn fields<const N: usize>(line: &str) -> Result<[String; N]> {
    let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
    fields.try_into().map_err(|_| anyhow::anyhow!("the machine said {line:?}"))
}

impl Mark {
    /// The end of the journal as it is now.
    pub fn set(machine: &Machine) -> Result<Self> {
        Self::read(&machine.sh(&Self::script())?)
    }

    /// What prints it.
    pub(crate) fn script() -> String {
        format!(
            "date +%s.%N; cat {HOOK_MARKS} 2>/dev/null | wc -l; journalctl --quiet --lines=1 --show-cursor --output=cat"
        )
    }

    /// Reads what that printed.
    pub(crate) fn read(said: &str) -> Result<Self> {
        let (_, cursor) = said.rsplit_once("-- cursor: ").context("the journal has no cursor")?;
        let mut lines = said.lines().map(str::trim);
        let time = lines.next().unwrap_or_default().to_owned();
        let hooks = lines.next().unwrap_or_default().parse()?;
        Ok(Self { time, cursor: cursor.trim().to_owned(), hooks })
    }
}

/// The fields of systemd's own journal entries that matter here.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "MESSAGE_ID")]
    message: Option<String>,
    #[serde(rename = "UNIT")]
    unit: Option<String>,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    time: String,
    #[serde(rename = "__MONOTONIC_TIMESTAMP")]
    monotonic: String,
}

/// The turns of these services, from what `journalctl --output=json` prints.
fn turns(journal: &str, services: &[&str]) -> Result<Vec<Turn>> {
    let mut turns = Vec::new();
    for line in journal.lines() {
        let entry: Entry = serde_json::from_str(line).with_context(|| format!("journal entry {line:?}"))?;
        let (Some(message), Some(unit)) = (entry.message, entry.unit) else { continue };
        let Some(service) = unit.strip_suffix(".service").filter(|unit| services.contains(unit)) else { continue };
        if message == STOPPING || message == STARTED {
            turns.push(Turn {
                service: service.to_owned(),
                up: message == STARTED,
                time: entry.time.parse::<i64>()? / 1000,
                monotonic: entry.monotonic.parse()?,
            });
        }
    }
    Ok(turns)
}

impl Happened {
    /// Reads what happened to these services, and which hooks ran, since a mark.
    pub fn since(mark: &Mark, machine: &Machine, services: &[&str]) -> Result<Self> {
        Self::read(&machine.sh(&Self::script(mark))?, services)
    }

    /// What prints it.
    pub(crate) fn script(mark: &Mark) -> String {
        format!(
            "journalctl --sync
            tail -n +{} {HOOK_MARKS} 2>/dev/null || :
            echo ==
            journalctl --quiet --after-cursor='{}' --output=json --output-fields=MESSAGE_ID,UNIT _PID=1",
            mark.hooks + 1,
            mark.cursor
        )
    }

    /// Reads what that printed.
    pub(crate) fn read(seen: &str, services: &[&str]) -> Result<Self> {
        let (hooks, journal) = seen.split_once("==\n").context("the machine said less than it was asked")?;
        let hooks = hooks.lines().map(str::to_owned).collect();
        let mut happened = Self { hooks, turns: turns(journal, services)?, ..Self::default() };
        let mut down_since: BTreeMap<String, u64> = BTreeMap::new();
        for Turn { service, up, monotonic, .. } in &happened.turns {
            if !up {
                happened.stops.push(service.clone());
                down_since.entry(service.clone()).or_insert(*monotonic);
                continue;
            }
            happened.starts.push(service.clone());
            if let Some(stopped) = down_since.remove(service) {
                let outage = Duration::from_micros(monotonic.saturating_sub(stopped));
                let sum = happened.outages.entry(service.clone()).or_insert(Some(Duration::ZERO));
                *sum = sum.map(|sum| sum + outage);
            }
        }
        happened.outages.extend(down_since.into_keys().map(|service| (service, None)));
        Ok(happened)
    }

    /// The order in which the services were started for the last time.
    #[must_use]
    pub fn restart_order(&self) -> Vec<&str> {
        let last = |service: &&String| self.starts.iter().rposition(|start| start == *service);
        let mut order: Vec<(usize, &str)> = Vec::new();
        for (index, service) in self.starts.iter().enumerate() {
            if last(&service) == Some(index) {
                order.push((index, service));
            }
        }
        order.into_iter().map(|(_, service)| service).collect()
    }
}

impl Happened {
    /// Writes down which hooks ran.
    pub fn hooks_in(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(f, "Hooks, in the order they ran:")?;
        self.hooks.iter().try_for_each(|hook| writeln!(f, "  {hook}"))
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hooks_in(f)?;
        writeln!(f, "Services, in the order systemd started them last:")?;
        for service in self.restart_order() {
            let starts = self.starts.iter().filter(|start| *start == service).count();
            writeln!(
                f,
                "  {service:<16} started {}",
                if starts == 1 { "once".to_owned() } else { format!("{starts} times") }
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(message: &str, unit: &str, microseconds: u64) -> String {
        format!(
            r#"{{"MESSAGE_ID":"{message}","UNIT":"{unit}","__REALTIME_TIMESTAMP":"{microseconds}","__MONOTONIC_TIMESTAMP":"{microseconds}"}}"#
        )
    }

    #[test]
    fn order_and_outages_come_from_the_journal() {
        let journal = [
            entry(STOPPING, "b.service", 1_000_000),
            entry(STARTED, "b.service", 1_500_000),
            entry(STOPPING, "a.service", 2_000_000),
            entry(STARTED, "a.service", 2_250_000),
            entry(STOPPING, "b.service", 3_000_000),
            entry(STARTED, "b.service", 3_100_000),
            entry(STARTED, "other.service", 4_000_000),
            entry(STOPPING, "c.service", 4_500_000),
            r#"{"__REALTIME_TIMESTAMP":"5","__MONOTONIC_TIMESTAMP":"5"}"#.to_owned(),
        ]
        .join("\n");
        let happened = Happened::read(&format!("pre-upgrade 10-a\n==\n{journal}"), &["a", "b", "c"]).unwrap();
        assert_eq!(happened.hooks, ["pre-upgrade 10-a"]);
        assert_eq!(happened.stops, ["b", "a", "b", "c"]);
        assert_eq!(happened.starts, ["b", "a", "b"]);
        assert_eq!(happened.restart_order(), ["a", "b"]);
        assert_eq!(happened.outages["b"], Some(Duration::from_millis(600)));
        assert_eq!(happened.outages["a"], Some(Duration::from_millis(250)));
        assert_eq!(happened.outages["c"], None, "it is still down");
    }
}
