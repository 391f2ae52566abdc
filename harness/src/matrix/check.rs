//! The checks of an upgraded machine.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::at_once::both;
use crate::machines::image::Debian;
use crate::machines::machine::Machine;
use crate::observe::expectation::Expectation;
use crate::observe::inventory::{Inventory, Section, SystemState};
use crate::observe::processes::{self, outlived};
use crate::observe::timeline::Mark;

/// Prints the units that have failed.
pub(crate) const FAILED_UNITS: &str = "systemctl list-units --failed --no-legend --plain | cut -d' ' -f1";

/// Prints what systemd knows of every unit; which packages the files of those that come from packages belong to; and when packages were
/// unpacked.
const UNITS: &str = include_str!("units.sh");

/// Prints what `dpkg --verify` says of the packages that have been unpacked since, and of those in whose files something has been written.
const MODIFIED: &str = include_str!("modified.sh");

/// Prints what runs or maps files that are gone, and in which unit.
const REPLACED: &str = include_str!("replaced.sh");

/// Prints temporary files, units and processes that a run did not remove.
const LEFT: &str = include_str!("left.sh");

/// What an upgraded machine is compared with.
#[derive(Clone)]
pub(crate) struct Target {
    /// The packages of the release and their versions.
    pub(crate) packages: BTreeMap<String, String>,
    /// Whether each service reports its version, which has to be that of the package of its name.
    pub(crate) reports_versions: bool,
    /// The inventory of a machine on which the release was installed.
    pub(crate) installed: Inventory,
    /// Facts of it that differ from machine to machine: their beginnings.
    pub(crate) own: Vec<String>,
    /// The Debian to which the same run upgrades the machine.
    pub(crate) next_debian: Option<Debian>,
}

/// A machine that has the new release, and what it is checked against.
pub(super) struct Upgraded<'a> {
    pub(super) machine: &'a Machine,
    /// The name of the upgrader's package and command.
    pub(super) upgrader: &'a str,
    /// The services that have to run.
    pub(super) services: &'a [&'a str],
    pub(super) target: &'a Target,
    pub(super) expect: &'a Expectation,
    /// Units that had failed before.
    pub(super) failed_before: &'a [String],
    /// When the first run began.
    pub(super) since: &'a Mark,
}

/// A check: what has to be true in a few words, and what contradicts it.
pub(crate) type Check = (&'static str, Vec<String>);

impl Upgraded<'_> {
    /// Checks everything, with two commands at once: one walks over all files, and waits for the disk.
    pub(super) fn checks(&self) -> Result<Vec<Check>> {
        let inventory = || Inventory::collect(self.machine, &[Section::Release]);
        let others = || {
            self.machine.ask([
                &SystemState::script(self.services),
                "dpkg --audit; ls /var/lib/dpkg/updates",
                FAILED_UNITS,
                UNITS,
                processes::SCRIPT,
                &MODIFIED.replace("@SINCE@", &self.since.time),
                REPLACED,
                &LEFT.replace("@NAME@", self.upgrader),
                &format!("{} history --json", self.upgrader),
                "find /etc -xtype f -exec sha256sum {} +",
                "grep ^VERSION_CODENAME= /etc/os-release",
            ])
        };
        let (inventory, others) = both(inventory, others);
        let [state, audit, failed, units, processes, modified, replaced, left, reports, sums, debian] = others?;
        let state = SystemState::read(&state, self.services)?;
        // The last one first.
        let reports: Vec<Value> = serde_json::from_str(&reports).context("the history")?;
        let named = restart_recommended(&reports)?;
        // The machine to compare with has no such process.
        let old = outlived(&stops(&units), &processes);
        let mut checks = vec![
            ("dpkg has no unfinished package", state.unfinished.iter().cloned().chain(lines(&audit)).collect()),
            ("every package of the release is installed", self.packages(&state)),
            ("every service runs, and runs the new version", self.services(&state)),
            ("no unit has failed", self.failed_units(&failed)),
            ("no service is older than its package", old_processes(&units, &named)?),
            ("systemd has reloaded every unit that changed", unread_units(&units)),
            ("no shipped file was modified", self.shipped_files(&modified)),
            ("no process runs replaced files", replaced_files(&replaced, &named)),
            ("the run left nothing behind", self.leftovers(&left)),
            ("the conffile report is correct", self.conffile_report(&reports, sums_by_path(&sums))?),
            ("it is the same as a machine on which the release was installed", self.drift(&inventory?, old)),
        ];
        if let Some(next) = self.target.next_debian {
            let other = lines(&debian).filter(|line| *line != format!("VERSION_CODENAME={next}"));
            checks.push(("the machine has the next Debian", other.collect()));
        }
        Ok(checks)
    }

    fn keeps(&self, package: &str) -> bool {
        self.expect.keeps.iter().any(|kept| kept == package)
    }

    fn packages(&self, state: &SystemState) -> Vec<String> {
        let mut findings = Vec::new();
        for (name, version) in &self.target.packages {
            let installed = state.packages.get(name);
            if (installed == Some(version)) == self.keeps(name) {
                findings.push(format!("{name} is {}", installed.map_or("not installed", String::as_str)));
            }
        }
        findings
    }

    fn services(&self, state: &SystemState) -> Vec<String> {
        let mut findings = Vec::new();
        for name in self.services {
            let Some(service) = state.services.get(*name) else { continue };
            let version = self.target.packages.get(*name).filter(|_| self.target.reports_versions);
            let down = self.expect.down.iter().any(|down| down == name);
            if down == (service.state == "active") {
                findings.push(format!("{name} is {}", service.state));
            } else if !down && !self.keeps(name) && version.is_some_and(|version| *version != service.version) {
                findings.push(format!("{name} runs version {:?}", service.version));
            }
        }
        findings
    }

    fn failed_units(&self, failed: &str) -> Vec<String> {
        let mut failed: Vec<String> = lines(failed).collect();
        failed.retain(|unit| !self.failed_before.contains(unit));
        failed.retain(|unit| !self.expect.down.iter().any(|down| *unit == format!("{down}.service")));
        failed
    }

    /// `dpkg --verify` marks conffiles with a `c`; those are in the conffile report.
    fn shipped_files(&self, modified: &str) -> Vec<String> {
        let mut modified: Vec<String> = lines(modified).collect();
        modified.retain(|line| !line.contains(" c /"));
        // Our machines come without Debian's documentation, and their lists and logs were cleared.
        let unneeded = ["/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/", "/var/"];
        modified.retain(|line| !(line.starts_with("missing") && unneeded.iter().any(|path| line.contains(path))));
        // Another check compares the installed packages.
        modified.retain(|line| !line.ends_with("is not installed"));
        // The harness changes this file itself, so that no test waits for services to settle.
        modified.retain(|line| !line.ends_with(&format!("/usr/share/{}/product.toml", self.upgrader)));
        modified
    }

    fn leftovers(&self, left: &str) -> Vec<String> {
        lines(left).filter(|path| !self.expect.differs.contains(&format!("file {path}"))).collect()
    }

    /// Compares the conffiles in the reports with the sums of files, by their paths.
    fn conffile_report(&self, reports: &[Value], mut sums: BTreeMap<String, String>) -> Result<Vec<String>> {
        // The last report with a file says what it has to be.
        let mut last: BTreeMap<String, Conffile> = BTreeMap::new();
        for report in reports.iter().rev() {
            for conffile in report["conffiles"].as_array().into_iter().flatten() {
                let conffile: Conffile = serde_json::from_value(conffile.clone()).context("a conffile of a report")?;
                last.insert(conffile.path.clone(), conffile);
            }
        }
        let paths = last.values().flat_map(|one| [Some(&one.path), one.other.as_ref()]).flatten().map(String::as_str);
        let elsewhere: Vec<&str> = paths.filter(|path| !path.starts_with("/etc/")).collect();
        if !elsewhere.is_empty() {
            let more = self.machine.sh(&format!("sha256sum -- {} 2>/dev/null || :", elsewhere.join(" ")))?;
            sums.extend(sums_by_path(&more));
        }
        let mut findings = Vec::new();
        for Conffile { path, other, sha256_after } in last.values() {
            let sum = sums.get(path).map(String::as_str);
            if sum != sha256_after.as_deref() {
                let words = |sum: Option<&str>| {
                    sum.map_or_else(|| "is not there".to_owned(), |sum| format!("has the sum {sum}"))
                };
                findings.push(format!(
                    "{path} {}, and in the report it {}",
                    words(sum),
                    words(sha256_after.as_deref())
                ));
            }
            if let Some(other) = other.as_ref().filter(|other| !sums.contains_key(*other)) {
                findings.push(format!("{other} is not there, though it is in the report"));
            }
        }
        Ok(findings)
    }

    fn drift(&self, inventory: &Inventory, old: Vec<String>) -> Vec<String> {
        let mut differences = inventory.differences(&self.target.installed);
        differences.extend(old.into_iter().map(|process| format!("+ old process {process}")));
        differences.retain(|line| !self.target.own.iter().any(|own| line[2..].starts_with(own.as_str())));
        if self.target.next_debian.is_some() {
            // Leftovers of Debian's own packages are not the product's.
            differences.retain(|line| self.target.packages.keys().any(|name| line.contains(name.as_str())));
        }
        let begins = |line: &str, beginning: &String| line[2..].starts_with(beginning.as_str());
        let (excepted, mut findings): (Vec<_>, Vec<_>) =
            differences.into_iter().partition(|line| self.expect.differs.iter().any(|named| begins(line, named)));
        let same = self.expect.differs.iter().filter(|named| !excepted.iter().any(|line| begins(line, named)));
        findings.extend(same.map(|named| format!("\"{named}\" does not differ, though `differs` names it")));
        findings
    }
}

/// The services that the last report recommends to restart.
fn restart_recommended(reports: &[Value]) -> Result<Vec<String>> {
    let Some(last) = reports.first() else { return Ok(Vec::new()) };
    let named: Vec<(String, String)> =
        serde_json::from_value(last["restart_recommended"].clone()).context("the last report")?;
    Ok(named.into_iter().map(|(name, _)| name).collect())
}

/// dpkg writes a package's list of files when it unpacks the package. A service whose main process is older runs what was there before.
/// Services that the upgrader has `named` may run on: they cannot be restarted on a machine that is in use.
fn old_processes(units: &str, named: &[String]) -> Result<Vec<String>> {
    let (units, packages) = units.split_once("==\n").context("the output of the machine is incomplete")?;
    let (owners, unpacked) = packages.split_once("==\n").context("the output of the machine is incomplete")?;
    // A unit's package, by the name of its file: which of two paths to the same directory dpkg knows is another question.
    let owners: BTreeMap<&str, &str> =
        lines_of(owners, ": ").map(|(package, path)| (file_name(path), package)).collect();
    let unpacked: BTreeMap<&str, i64> = lines_of(unpacked, " ")
        .map(|(time, path)| Ok((file_name(path).trim_end_matches(".list"), time.parse()?)))
        .collect::<Result<_>>()?;
    let mut findings = Vec::new();
    for unit in units.split("\n\n") {
        let unit: BTreeMap<&str, &str> = lines_of(unit, "=").collect();
        let start = unit.get("ExecMainStartTimestamp").and_then(|time| time.strip_prefix('@'));
        let (Some(start), Some(path), Some(name)) = (start, unit.get("FragmentPath"), unit.get("Id")) else { continue };
        if unit.get("MainPID") == Some(&"0") || named.iter().any(|one| *name == format!("{one}.service")) {
            continue;
        }
        let Some((package, time)) = owners.get(file_name(path)).and_then(|package| unpacked.get_key_value(package))
        else {
            continue;
        };
        if start.parse::<i64>()? < *time {
            findings.push(format!("{name} has run since before {package} was unpacked"));
        }
    }
    Ok(findings)
}

/// When each unit was last inactive (microseconds since boot), by its control group.
fn stops(units: &str) -> BTreeMap<&str, u64> {
    let stops = units.split("\n\n").filter_map(|unit| {
        let unit: BTreeMap<&str, &str> = lines_of(unit, "=").collect();
        Some((*unit.get("ControlGroup")?, unit.get("InactiveEnterTimestampMonotonic")?.parse().ok()?))
    });
    stops.collect()
}

fn unread_units(units: &str) -> Vec<String> {
    let paragraphs = units.split("\n\n").filter(|unit| unit.contains("NeedDaemonReload=yes"));
    paragraphs.filter_map(|unit| unit.lines().find_map(|line| line.strip_prefix("Id="))).map(str::to_owned).collect()
}

/// The kernel calls a file `(deleted)` that is mapped or run but no longer has a name. A service whose program is a script
/// maps its interpreter: whether it runs the new script is checked by the version that it reports. Services that the upgrader has named
/// may run on.
fn replaced_files(replaced: &str, named: &[String]) -> Vec<String> {
    let is_named = |line: &String| named.iter().any(|name| line.starts_with(&format!("{name}: ")));
    lines(replaced).filter(|line| !is_named(line)).collect()
}

fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(str::to_owned)
}

/// Lines of two parts each.
fn lines_of<'a>(text: &'a str, between: &'static str) -> impl Iterator<Item = (&'a str, &'a str)> {
    text.lines().filter_map(move |line| line.split_once(between))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// What sha256sum printed.
fn sums_by_path(sums: &str) -> BTreeMap<String, String> {
    lines_of(sums, "  ").map(|(sum, path)| (path.to_owned(), sum.to_owned())).collect()
}

/// A conffile in the report of a run.
#[derive(Debug, Deserialize)]
struct Conffile {
    path: String,
    other: Option<String>,
    sha256_after: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_since_before_its_package_was_unpacked_is_old_unless_it_was_named() {
        let units = "Id=dbus.service\nMainPID=7\nFragmentPath=/lib/systemd/system/dbus.service\nExecMainStartTimestamp=@100\n\n\
                     Id=cron.service\nMainPID=8\nFragmentPath=/lib/systemd/system/cron.service\nExecMainStartTimestamp=@300\n\
                     ==\ndbus: /lib/systemd/system/dbus.service\ncron: /lib/systemd/system/cron.service\n\
                     ==\n200 /var/lib/dpkg/info/dbus.list\n200 /var/lib/dpkg/info/cron.list\n";
        let old = "dbus.service has run since before dbus was unpacked";
        assert_eq!(old_processes(units, &[]).unwrap(), [old]);
        assert_eq!(old_processes(units, &["cron".to_owned()]).unwrap(), [old]);
        assert_eq!(old_processes(units, &["dbus".to_owned()]).unwrap(), [""; 0]);
    }
}
