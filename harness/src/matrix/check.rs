use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use super::expectation::Expectation;
use super::portrait::Portrait;
use crate::image::Debian;
use crate::machine::Machine;
use crate::observation::SystemState;

/// What is looked at on a machine that has the new release.
pub struct Upgraded<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// What the upgrader's package and command are called: `xivo-upgrade`.
    pub upgrader: &'a str,
    /// The packages of the release and their versions.
    pub packages: &'a BTreeMap<String, String>,
    /// The product's services, each with the version that it has to say it is, if it says one.
    pub services: &'a [(&'a str, Option<&'a str>)],
    /// What is expected.
    pub expect: &'a Expectation,
    /// A machine on which the release was installed.
    pub installed: &'a Portrait,
    /// What of it is each machine's own: beginnings of the lines that name it.
    pub own: &'a [String],
    /// The Debian that it went to with the same run, if it did.
    pub next_debian: Option<Debian>,
    /// Units that had failed before.
    pub failed_before: &'a [String],
}

/// Something that was looked at: what it is in a few words, and what is wrong with it.
pub type Check = (&'static str, Vec<String>);

impl Upgraded<'_> {
    /// Looks at everything.
    pub fn checks(&self) -> Result<Vec<Check>> {
        let services: Vec<&str> = self.services.iter().map(|(name, _)| *name).collect();
        let state = SystemState::of(self.machine, &services)?;
        let mut checks = vec![
            ("dpkg is done with everything", self.dpkg(&state)?),
            ("every package of the release is there", self.packages(&state)),
            ("every service runs, and runs the new version", self.services(&state)),
            ("no unit has failed", self.failed_units()?),
            ("no service is older than its package", self.old_processes()?),
            ("systemd has read every unit as it is on disk", self.unread_units()?),
            ("no shipped file was modified", self.shipped_files()?),
            ("nothing runs replaced files", self.replaced_files()?),
            ("nothing of the run is left", self.leftovers()?),
            ("the conffile ledger is true", self.ledger()?),
            ("it is the same as a machine on which the release was installed", self.drift()?),
        ];
        if let Some(next) = self.next_debian {
            let system = self
                .lines(&format!("grep ^VERSION_CODENAME= /etc/os-release | grep -vx VERSION_CODENAME={next} || :"))?;
            checks.push(("it has the next Debian", system));
        }
        Ok(checks)
    }

    fn lines(&self, script: &str) -> Result<Vec<String>> {
        Ok(self.machine.sh(script)?.lines().map(str::to_owned).collect())
    }

    fn dpkg(&self, state: &SystemState) -> Result<Vec<String>> {
        let mut findings = state.unfinished.clone();
        findings.extend(self.lines("dpkg --audit; ls /var/lib/dpkg/updates")?);
        Ok(findings)
    }

    fn keeps(&self, package: &str) -> bool {
        self.expect.keeps.iter().any(|kept| kept == package)
    }

    fn packages(&self, state: &SystemState) -> Vec<String> {
        let mut findings = Vec::new();
        for (name, version) in self.packages {
            let installed = state.packages.get(name);
            if (installed == Some(version)) == self.keeps(name) {
                findings.push(format!("{name} is {}", installed.map_or("not installed", String::as_str)));
            }
        }
        findings
    }

    fn services(&self, state: &SystemState) -> Vec<String> {
        let mut findings = Vec::new();
        for (name, version) in self.services {
            let Some(service) = state.services.get(*name) else { continue };
            let down = self.expect.down.iter().any(|down| down == name);
            if down == (service.state == "active") {
                findings.push(format!("{name} is {}", service.state));
            } else if !down && !self.keeps(name) && version.is_some_and(|version| version != service.version) {
                findings.push(format!("{name} runs version {:?}", service.version));
            }
        }
        findings
    }

    /// dpkg writes a package's list of files when it unpacks the package. A service whose main process is older runs what was there before.
    fn old_processes(&self) -> Result<Vec<String>> {
        self.lines(
            "systemctl show --timestamp=unix --property=Id,FragmentPath,ExecMainStartTimestamp '*.service' |
                 awk -F= '{ of[$1] = $2 } /^$/ { print of[\"FragmentPath\"], of[\"ExecMainStartTimestamp\"], of[\"Id\"]; delete of }' |
                 while read -r path start unit; do
                     case $path,$start in /usr/lib/*,@*) ;; *) continue ;; esac
                     if ! systemctl --quiet is-active $unit; then continue; fi
                     package=$(dpkg-query --search $path 2>/dev/null | sed 's/: .*//') || continue
                     unpacked=$(stat --format=%Y /var/lib/dpkg/info/$package.list 2>/dev/null) || continue
                     if [ ${start#@} -lt $unpacked ]; then echo \"$unit has run since before $package was unpacked\"; fi
                 done",
        )
    }

    fn unread_units(&self) -> Result<Vec<String>> {
        self.lines(
            "systemctl show --property=Id,NeedDaemonReload '*' |
                 awk -F= '/^Id=/ { id = $2 } /^NeedDaemonReload=yes/ { print id }'",
        )
    }

    fn failed_units(&self) -> Result<Vec<String>> {
        let mut failed = failed_units(self.machine)?;
        failed.retain(|unit| !self.failed_before.contains(unit));
        failed.retain(|unit| !self.expect.down.iter().any(|down| *unit == format!("{down}.service")));
        Ok(failed)
    }

    /// `dpkg --verify` marks conffiles with a `c`; those have a ledger.
    fn shipped_files(&self) -> Result<Vec<String>> {
        let mut modified = self.lines("dpkg --verify || :")?;
        modified.retain(|line| !line.contains(" c /"));
        // Our machines come without Debian's documentation, and their lists and logs were cleared.
        let unneeded = ["/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/", "/var/"];
        modified.retain(|line| !(line.starts_with("missing") && unneeded.iter().any(|path| line.contains(path))));
        // Whether all are there is another question.
        modified.retain(|line| !line.ends_with("is not installed"));
        // Not the fault of whoever upgrades: the harness itself lets nobody wait for services to settle.
        modified.retain(|line| !line.ends_with(&format!("/usr/share/{}/product.toml", self.upgrader)));
        Ok(modified)
    }

    /// The kernel calls a file `(deleted)` that is mapped or run but no longer has a name. A service whose program is a script
    /// maps its interpreter: that its script was replaced is seen by the version that it says it is. What cannot be restarted on a
    /// machine that is in use may run on, if the upgrader has said so.
    fn replaced_files(&self) -> Result<Vec<String>> {
        let mut found = self.lines(
            "for process in /proc/[0-9]*; do
                 { readlink $process/exe; grep -s ' /usr.* (deleted)$' $process/maps; } 2>/dev/null | grep '(deleted)$' |
                     sed \"s|^[^/]*|$(sed -n '/^0::/ { s|.*/||; s|[.]service$||; p }' $process/cgroup 2>/dev/null): |\" | sort -u
             done || :",
        )?;
        let reports = self.reports()?;
        let named: Vec<(String, String)> = match reports.first() {
            Some(last) => serde_json::from_value(last["restart_recommended"].clone()).context("the last report")?,
            None => Vec::new(),
        };
        found.retain(|line| !named.iter().any(|(name, _)| line.starts_with(&format!("{name}: "))));
        Ok(found)
    }

    /// What the upgrader remembers of its runs, the last one first.
    fn reports(&self) -> Result<Vec<Value>> {
        let reports = self.machine.sh(&format!("{} history --json", self.upgrader))?;
        serde_json::from_str(&reports).context("the history")
    }

    fn leftovers(&self) -> Result<Vec<String>> {
        let name = self.upgrader;
        let mut left = self.lines(&format!(
            "if [ -e /usr/sbin/policy-rc.d ]; then echo /usr/sbin/policy-rc.d; fi
             ls -d /run/systemd/transient/{name}* /run/systemd/system/{name}* /tmp/*{name}* /etc/apt/apt.conf.d/*{name}* 2>/dev/null || :
             pgrep -af '^(/usr/bin/)?(real-)?{name}( |$)' || :
             for process in $(cat /sys/fs/cgroup/system.slice/{name}-run.service/cgroup.procs 2>/dev/null); do
                 echo \"it left a process: $(tr '\\0' ' ' </proc/$process/cmdline)\"
             done
             flock --nonblock /run/{name}.lock true || echo 'the lock is held'
             find /etc /usr -name '*.dpkg-new' -o -name '*.dpkg-tmp' -o -name '*.ucf-new'
             find /var/lib/{name} -name '*.new' -o -name '*.tmp' 2>/dev/null || :"
        ))?;
        left.retain(|path| !self.expect.differs.contains(&format!("file {path}")));
        Ok(left)
    }

    fn ledger(&self) -> Result<Vec<String>> {
        // What the last run that changed it says of a file is how it has to be.
        let mut last: BTreeMap<String, Conffile> = BTreeMap::new();
        for report in self.reports()?.iter().rev() {
            for conffile in report["conffiles"].as_array().into_iter().flatten() {
                let conffile: Conffile = serde_json::from_value(conffile.clone()).context("a conffile of a report")?;
                last.insert(conffile.path.clone(), conffile);
            }
        }
        let paths: Vec<&str> =
            last.values().flat_map(|one| [Some(&one.path), one.other.as_ref()]).flatten().map(String::as_str).collect();
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let sums = self.lines(&format!("sha256sum -- {} 2>/dev/null || :", paths.join(" ")))?;
        let sums: BTreeMap<&str, &str> =
            sums.iter().filter_map(|line| line.split_once("  ")).map(|(sum, path)| (path, sum)).collect();
        let mut findings = Vec::new();
        for Conffile { path, other, sha256_after } in last.values() {
            let sum = sums.get(path.as_str()).copied();
            if sum != sha256_after.as_deref() {
                let words = |sum: Option<&str>| {
                    sum.map_or_else(|| "is not there".to_owned(), |sum| format!("has the sum {sum}"))
                };
                findings.push(format!(
                    "{path} {}, and in the ledger it {}",
                    words(sum),
                    words(sha256_after.as_deref())
                ));
            }
            if let Some(other) = other.as_ref().filter(|other| !sums.contains_key(other.as_str())) {
                findings.push(format!("{other} is not there, though it is in the ledger"));
            }
        }
        Ok(findings)
    }

    fn drift(&self) -> Result<Vec<String>> {
        let mut differences = Portrait::of(self.machine)?.differences(self.installed);
        differences.retain(|line| !self.own.iter().any(|own| line[2..].starts_with(own.as_str())));
        if self.next_debian.is_some() {
            // What Debian's own packages leave behind on their way to the next release is not ours to judge.
            differences.retain(|line| self.packages.keys().any(|name| line.contains(name.as_str())));
        }
        let mut findings = Vec::new();
        let excepted =
            |line: &String| self.expect.differs.iter().find(|beginning| line[2..].starts_with(beginning.as_str()));
        findings.extend(differences.iter().filter(|line| excepted(line).is_none()).cloned());
        for beginning in &self.expect.differs {
            if !differences.iter().any(|line| line[2..].starts_with(beginning.as_str())) {
                findings.push(format!("\"{beginning}\" does not differ, though it was said to"));
            }
        }
        Ok(findings)
    }
}

/// The units that have failed.
pub fn failed_units(machine: &Machine) -> Result<Vec<String>> {
    let failed = machine.sh("systemctl list-units --failed --no-legend --plain | cut -d' ' -f1")?;
    Ok(failed.lines().map(str::to_owned).collect())
}

/// What the ledger says of a conffile.
#[derive(Debug, Deserialize)]
struct Conffile {
    path: String,
    other: Option<String>,
    sha256_after: Option<String>,
}
