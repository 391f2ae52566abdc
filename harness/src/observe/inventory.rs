//! The inventory of a machine: all facts that are collected of it. Its readers compare inventories and judge the differences.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::disk_files::DiskFiles;
use crate::machines::machine::Machine;

/// The sections of an inventory. Each prints facts, a line each: a kind, a name, and a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `fingerprint`: one sum of every path below /etc and /usr with its type, mode, owner, link target, size, inode, and the time of its
    /// last change, which no program can set back; and of the content of everything below /etc.
    Fingerprint,
    /// What two machines with the same release have in common: `package`, `manual`, `hold`, `content` of /etc, `directory`, `file`, `size`,
    /// `switched`, `divert`, `override`, `service`, `trigger`, `unit`. Files that removed packages left behind are not in it.
    Release,
    /// What belongs to a machine and its admin and to no release: `conffile` (one that is not as its package has it), `data`, `unit`.
    Local,
    /// Every path, but for [`VOLATILE`]: `path` with type, mode and owner, `content`, `attribute`; the services that are `running` and their
    /// versions, the content of the `database`, `failed` units, `half-done` packages, and the upgrader's `lock`. Times are left out.
    Files,
    /// [`Section::Files`] without paths, content and attributes.
    Running,
}

/// The sorted facts of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Collects these sections with one command.
    pub fn collect(machine: &Machine, sections: &[Section]) -> Result<Self> {
        Ok(Self::parse(&machine.sh(&Self::script(sections))?))
    }

    /// Collects [`Section::Files`] of a machine on a disk. The files are read on this host, so nothing may write on the disk meanwhile.
    pub(crate) fn of_disk(machine: &Machine) -> Result<Self> {
        let disk = machine.disk().context("the machine has no disk")?;
        let Self(mut facts) = Self::collect(machine, &[Section::Running])?;
        let volatile: BTreeSet<&str> = VOLATILE.iter().flat_map(|paths| paths.split(' ')).collect();
        let is_left_out = |path: &str| volatile.contains(path) || path.ends_with(&format!("/{ROLLBACK_DATA}"));
        facts.extend(DiskFiles::facts(&disk.path(), &is_left_out, KEY)?);
        Ok(Self(facts))
    }

    /// The script that prints these sections.
    pub(crate) fn script(sections: &[Section]) -> String {
        let scripts = sections.iter().map(|section| match section {
            Section::Fingerprint => FINGERPRINT.to_owned(),
            Section::Release => format!("{RELEASE}{UNITS}"),
            Section::Local => format!("{LOCAL}{UNITS}"),
            Section::Files => files() + RUNNING,
            Section::Running => RUNNING.to_owned(),
        });
        std::iter::once("export LC_ALL=C\n".to_owned()).chain(scripts).collect()
    }

    /// Reads what the script printed, or an inventory that was saved.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = || text.lines().map(str::trim_end);
        let remains: BTreeSet<&str> = lines().filter_map(|line| line.strip_prefix("remains ")).collect();
        let counts = |line: &&str| {
            let path = line.split(' ').nth(1).unwrap_or_default();
            !line.is_empty()
                && !line.starts_with("remains ")
                && !(remains.contains(path) && (line.starts_with("file ") || line.starts_with("content ")))
                && !TRANSIENT.iter().any(|transient| line.starts_with(transient))
        };
        // Links that were made on an older Debian name units by another path to the same directory.
        let merged = |line: &str| {
            if line.starts_with("path ") { line.to_owned() } else { line.replace(" /lib/", " /usr/lib/") }
        };
        Self(lines().filter(counts).map(merged).collect())
    }

    /// The facts, as [`Inventory::parse`] reads them.
    fn text(&self) -> String {
        self.0.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// The facts of a kind, without it.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(move |fact| fact.strip_prefix(kind)?.strip_prefix(' '))
    }

    /// The installed packages and their versions.
    pub fn packages(&self) -> BTreeMap<String, String> {
        let fields = self.of_kind("package").filter_map(|fact| fact.split_once(' '));
        let version = |rest: &str| rest.split(' ').next().unwrap_or_default().to_owned();
        fields.map(|(name, rest)| (name.to_owned(), version(rest))).collect()
    }

    /// The differences from another machine: `-` marks facts of the other one, `+` those of this one.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let differing = self.0.symmetric_difference(&other.0);
        differing.map(|fact| format!("{} {fact}", if self.0.contains(fact) { '+' } else { '-' })).collect()
    }
}

/// The fingerprint of a machine: [`Section::Fingerprint`] alone.
pub fn fingerprint(machine: &Machine) -> Result<String> {
    Inventory::collect(machine, &[Section::Fingerprint]).map(|inventory| inventory.text())
}

/// Units that systemd starts and stops by itself, and the one in which a fault waits.
const TRANSIENT: [&str; 9] = [
    "service fault-trigger.service ",
    "service xivo-upgrade-resume.service inactive",
    "service systemd-",
    "service ldconfig.service",
    "service user@",
    "service user-runtime-dir@",
    "service run-",
    "trigger systemd-",
    "trigger syslog.socket",
];

/// Paths that [`Section::Files`] leaves out, each with all below it: they belong to a machine's life and not to what is installed on it.
const VOLATILE: [&str; 7] = [
    // The kernel's, the engine's, and what is in memory.
    "/proc /sys /dev /run /tmp /var/tmp /.dockerenv /etc/hosts /etc/hostname /etc/resolv.conf /etc/mtab",
    // Logs, with systemd's journal, and caches.
    "/var/log /var/cache /var/lib/apt/lists /var/backups",
    // Identities, seeds, and what systemd remembers of them.
    "/etc/machine-id /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/systemd/catalog /var/lib/systemd/timers",
    // When /usr was changed last (systemd-update-done(8)): it differs where /usr is a filesystem of its own.
    "/etc/.updated /var/.updated",
    // What dpkg had before its last change.
    "/var/lib/dpkg/status-old /var/lib/dpkg/diversions-old /var/lib/dpkg/statoverride-old",
    // The upgrader's own journal, history and rollback data, and the files of a database, of which the content is compared.
    "/var/lib/xivo-upgrade /var/lib/postgresql",
    // Each world's own: its repository, and whether the unit at boot resumes a run.
    "/etc/apt/sources.list.d/xivo.sources /var/lib/crash",
];

/// The key with which a world's repository signs: another each time.
const KEY: &str = "/usr/share/keyrings/xivo.pgp";

/// The upgrader's rollback data on a filesystem that is not that of its state.
const ROLLBACK_DATA: &str = ".xivo-upgrade-rollback";

/// Prints [`Section::Fingerprint`].
const FINGERPRINT: &str = include_str!("fingerprint.sh");

/// Prints `unit NAME enabled`, `masked` or `disabled` of every unit file. systemd's own list of them takes it a third of a second, and
/// comes from the same links.
const UNITS: &str = include_str!("units.sh");

/// Prints [`Section::Release`], but for the units. find(1) would look up the owner's name for each file, which takes
/// longer than all else, so awk does.
const RELEASE: &str = include_str!("release.sh");

/// Prints [`Section::Local`], but for the units. What programs of Debian's keep about themselves below /var/lib is not the machine's own, nor
/// is what the upgrader keeps.
const LOCAL: &str = include_str!("local.sh");

/// Prints [`Section::Running`].
const RUNNING: &str = include_str!("running.sh");

/// Prints the paths, contents and attributes of [`Section::Files`].
fn files() -> String {
    let paths = VOLATILE.iter().flat_map(|paths| paths.split(' ')).map(|path| format!("-path {path}"));
    let volatile: Vec<String> = paths.chain([format!("-name {ROLLBACK_DATA}")]).collect();
    include_str!("files.sh").replace("@VOLATILE@", &volatile.join(" -o ")).replace("@KEY@", KEY)
}

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

impl SystemState {
    /// Collects that of a machine and of these services.
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
        let mut section = || sections.next().context("the output of the machine is incomplete");
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
        ensure!(services.len() == services_wanted, "the machine printed {} services", services.len());
        Ok(Self { packages, unfinished, services })
    }
}

/// The fields of a line of a listing.
fn fields<const N: usize>(line: &str) -> Result<[String; N]> {
    let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
    fields.try_into().map_err(|_| anyhow::anyhow!("the machine printed {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_removed_package_left_behind_does_not_make_a_machine_another_one() {
        let plain = Inventory::parse("package a 1 ii\nfile /etc/a f 644 root:root\n");
        let other = Inventory::parse(
            "package a 2 ii\nfile /etc/a f 644 root:root\nremains /etc/b\nfile /etc/b f 644 root:root\ncontent /etc/b 00\n",
        );
        assert_eq!(other.differences(&plain), ["- package a 1 ii", "+ package a 2 ii"]);
        assert_eq!(plain.differences(&plain), [""; 0]);
    }

    #[test]
    fn differences_are_sorted_by_fact() {
        let old = Inventory::parse("path /a f 644 0:0 \npath /b l 777 0:0 /lib/a\nrunning x active 1\ncontent /a 0a\n");
        let new = Inventory::parse(
            "path /a f 644 0:0 \nrunning x active 2\ncontent /a 0a\nattribute /a security.capability=0x01\n\n",
        );
        assert_eq!(
            new.differences(&old),
            [
                "+ attribute /a security.capability=0x01",
                "- path /b l 777 0:0 /lib/a",
                "- running x active 1",
                "+ running x active 2",
            ]
        );
        assert_eq!(old.differences(&Inventory::parse(&old.text())), [""; 0]);
    }
}
