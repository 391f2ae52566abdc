//! The inventory of a machine before its upgrade, for the comparison afterwards.

use std::collections::BTreeSet;

use anyhow::Result;

use super::check::{Check, FAILED_UNITS};
use crate::machines::machine::Machine;
use crate::observe::expectation::{End, Expectation};
use crate::observe::inventory::{Inventory, Section, SystemState};
use crate::observe::timeline::Mark;

/// Where Debian's PostgreSQL has its clusters.
const SERVER: &str = "/var/lib/postgresql/";

/// What of a machine is compared where it has to be the same afterwards.
const UNCHANGED: [Section; 2] = [Section::Fingerprint, Section::Release];

/// What of the machine's data has to be there afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataUnit {
    /// Each file, but of a database server each directory that had some.
    File,
    /// Each directory that had files: databases make and remove files of their own.
    Directory,
}

/// A machine before its upgrade.
pub(crate) struct Baseline {
    /// The moment before the upgrader is started.
    pub(crate) mark: Mark,
    /// Packages and services.
    pub(crate) state: SystemState,
    /// Units that have failed already.
    pub(crate) failed: Vec<String>,
    local: Inventory,
    /// Only where the machine is expected to be the same afterwards.
    inventory: Option<Inventory>,
}

impl Baseline {
    /// Collects it with one command. `local` is what is local to the machine, if that was collected before.
    pub(crate) fn collect(
        machine: &Machine,
        services: &[&str],
        expected: &Expectation,
        local: Option<Inventory>,
    ) -> Result<Self> {
        let is_same = matches!(expected.end(), End::Unchanged | End::RolledBack);
        let [before, now, state, failed, mark] = machine.ask([
            &if local.is_some() { String::new() } else { Inventory::script(&[Section::Local]) },
            &if is_same { Inventory::script(&UNCHANGED) } else { String::new() },
            &SystemState::script(services),
            FAILED_UNITS,
            &Mark::script(),
        ])?;
        Ok(Self {
            mark: Mark::read(&mark)?,
            state: SystemState::read(&state, services)?,
            failed: failed.lines().map(str::to_owned).collect(),
            local: local.unwrap_or_else(|| Inventory::parse(&before)),
            inventory: is_same.then(|| Inventory::parse(&now)),
        })
    }

    /// What has changed since. After a boot processes and times are not compared.
    pub(crate) fn changes(&self, machine: &Machine, booted: bool) -> Result<Vec<String>> {
        Ok(self.compare(machine, booted)?.0)
    }

    /// What a rollback has not restored. Services were restarted, and must run their old versions.
    pub(crate) fn not_restored(&self, machine: &Machine) -> Result<Vec<String>> {
        let (mut left, now) = self.compare(machine, true)?;
        for (service, before) in self.state.services.iter().filter(|_| self.inventory.is_some()) {
            if now.services.get(service).is_none_or(|now| now.version != before.version) {
                left.push(format!("{service} does not run {} again: {:?}", before.version, now.services.get(service)));
            }
        }
        Ok(left)
    }

    fn compare(&self, machine: &Machine, booted: bool) -> Result<(Vec<String>, SystemState)> {
        let Some(before) = &self.inventory else { return Ok((Vec::new(), self.state.clone())) };
        let services: Vec<&str> = self.state.services.keys().map(String::as_str).collect();
        let [now, state] = machine.ask([&Inventory::script(&UNCHANGED), &SystemState::script(&services)])?;
        let (now, state) = (Inventory::parse(&now), SystemState::read(&state, &services)?);
        let mut changes = now.differences(before);
        let is_touched = changes.iter().any(|change| change[2..].starts_with("fingerprint "));
        changes.retain(|change| !change[2..].starts_with("fingerprint "));
        if booted {
            return Ok((changes, state));
        }
        if changes.is_empty() && is_touched {
            changes.push("a file below /etc or /usr was written, with the same content".to_owned());
        }
        if state != self.state {
            changes.push(format!("packages or services changed: {:?} became {state:?}", self.state));
        }
        Ok((changes, state))
    }

    /// Whether everything is still there that belongs to the machine and its admin, and not to the release.
    pub(crate) fn local_checks(&self, machine: &Machine, unit: DataUnit) -> Result<Vec<Check>> {
        let etc = "find /etc -type f -exec sha256sum {} +";
        let [now, there] = machine.ask([&Inventory::script(&[Section::Local]), etc])?;
        let now = Inventory::parse(&now);
        let sums: BTreeSet<&str> = edited(&self.local).map(|(sum, _)| sum).collect();
        // A link may lead to a file outside of /etc.
        let linked = edited(&now).map(|(sum, _)| sum);
        let there: BTreeSet<&str> = there.lines().filter_map(|line| line.split(' ').next()).chain(linked).collect();
        let lost = edited(&self.local).filter(|(sum, _)| !there.contains(sum));
        let foreign = edited(&now).filter(|(sum, _)| !sums.contains(sum));
        Ok(vec![
            ("no edit of the admin's is lost", lost.map(|(_, path)| path.to_owned()).collect()),
            ("only the admin has edited conffiles", foreign.map(|(_, path)| path.to_owned()).collect()),
            ("no local data is lost", lost_data(&self.local, &now, unit)),
            ("disabled units stay disabled", switched_on(&self.local, &now)),
        ])
    }
}

/// Conffiles that are not as their packages have them: what they have instead, as a sum, and where.
fn edited(local: &Inventory) -> impl Iterator<Item = (&str, &str)> {
    local.of_kind("conffile").filter_map(|fact| fact.split_once(' '))
}

fn lost_data(before: &Inventory, now: &Inventory, unit: DataUnit) -> Vec<String> {
    data(before, unit).difference(&data(now, unit)).map(|path| (*path).to_owned()).collect()
}

/// Files with data, or the directories that have any.
fn data(local: &Inventory, unit: DataUnit) -> BTreeSet<&str> {
    let directory = |path: &'_ str| path.rfind('/').unwrap_or_default();
    let place = |path| match unit {
        DataUnit::File if !str::starts_with(path, SERVER) => path,
        DataUnit::File | DataUnit::Directory => &path[..directory(path)],
    };
    local.of_kind("data").map(place).collect()
}

/// Disabled units that are enabled now. Removed units and new ones do not count.
fn switched_on(before: &Inventory, now: &Inventory) -> Vec<String> {
    let units = |local: &Inventory, state: &str| -> BTreeSet<String> {
        local.of_kind("unit").filter_map(|unit| unit.strip_suffix(state)).map(str::to_owned).collect()
    };
    let off = &units(before, " disabled") | &units(before, " masked");
    (&off & &units(now, " enabled")).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_was_off_and_is_enabled_was_switched_on() {
        let before = Inventory::parse(
            "unit a.service disabled\nunit b.service masked\nunit c.service disabled\nunit d.service enabled\n",
        );
        let after = Inventory::parse(
            "unit a.service enabled\nunit b.service enabled\nunit d.service enabled\nunit e.service enabled\n",
        );
        assert_eq!(switched_on(&before, &after), ["a.service", "b.service"]);
        assert_eq!(switched_on(&before, &before), [""; 0]);
    }

    #[test]
    fn a_database_may_change_its_files_but_not_lose_its_directory() {
        let before = Inventory::parse("data /var/lib/db/wal/1\ndata /var/lib/db/wal/2\ndata /srv/calls/1\n");
        let after = Inventory::parse("data /var/lib/db/wal/2\ndata /var/lib/db/wal/3\n");
        assert_eq!(lost_data(&before, &after, DataUnit::File), ["/srv/calls/1", "/var/lib/db/wal/1"]);
        assert_eq!(lost_data(&before, &after, DataUnit::Directory), ["/srv/calls"]);
        let before =
            Inventory::parse("data /var/lib/postgresql/15/main/base/1\ndata /var/lib/postgresql/15/main/pg_wal/1\n");
        let after = Inventory::parse("data /var/lib/postgresql/15/main/base/2\n");
        assert_eq!(lost_data(&before, &after, DataUnit::File), ["/var/lib/postgresql/15/main/pg_wal"]);
    }
}
