use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use super::expectation::Expectation;
use super::portrait::Portrait;
use crate::machine::Machine;
use crate::observation::SystemState;
use crate::package::Package;
use crate::release::Release;
use crate::shipped::{SERVICES, XIVO};

/// What is looked at on a machine that has the new release.
pub struct Upgraded<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The release.
    pub release: &'a Release,
    /// What else was published with it.
    pub upgrader: &'a Package,
    /// What is expected.
    pub expect: &'a Expectation,
    /// A machine on which the release was installed.
    pub installed: &'a Portrait,
}

/// Something that was looked at: what it is in a few words, and what is wrong with it.
pub type Check = (&'static str, Vec<String>);

impl Upgraded<'_> {
    /// Looks at everything.
    pub fn checks(&self) -> Result<Vec<Check>> {
        let state = SystemState::of(self.machine, &SERVICES)?;
        Ok(vec![
            ("dpkg is done with everything", self.dpkg(&state)?),
            ("every package of the release is there", self.packages(&state)),
            ("every service runs, and runs the new version", self.services(&state)),
            ("no unit has failed", self.failed_units()?),
            ("every service of the release is in the declared order", self.undeclared_services()),
            ("no service is older than its package", self.old_processes()?),
            ("systemd has read every unit as it is on disk", self.unread_units()?),
            ("no shipped file was modified", self.shipped_files()?),
            ("nothing runs replaced files", self.replaced_files()?),
            ("nothing of the run is left", self.leftovers()?),
            ("the conffile ledger is true", self.ledger()?),
            ("it is the same as a machine on which the release was installed", self.drift()?),
        ])
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
        for package in self.release.packages.iter().chain([self.upgrader]) {
            let installed = state.packages.get(&package.name);
            if (installed == Some(&package.version)) == self.keeps(&package.name) {
                findings.push(format!("{} is {}", package.name, installed.map_or("not installed", String::as_str)));
            }
        }
        findings
    }

    fn services(&self, state: &SystemState) -> Vec<String> {
        let mut findings = Vec::new();
        for (name, service) in &state.services {
            let down = self.expect.down.contains(name);
            let package = self.release.packages.iter().find(|package| package.name == *name);
            if down == (service.state == "active") {
                findings.push(format!("{name} is {}", service.state));
            } else if !down && !self.keeps(name) && package.is_some_and(|package| package.version != service.version) {
                findings.push(format!("{name} runs version {:?}", service.version));
            }
        }
        findings
    }

    /// A service that is in no order is restarted by its maintainer scripts in the middle of the upgrade, or not at all, and nobody looks
    /// whether it stays up.
    fn undeclared_services(&self) -> Vec<String> {
        let files = self.release.packages.iter().flat_map(|package| &package.files);
        let enabled =
            files.filter(|file| String::from_utf8_lossy(&file.content).contains("WantedBy=multi-user.target"));
        let names = enabled.filter_map(|file| {
            file.path.strip_prefix("/usr/lib/systemd/system/")?.strip_suffix(".service").map(str::to_owned)
        });
        names.filter(|name| !SERVICES.contains(&name.as_str())).collect()
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
        let mut failed = self.lines("systemctl list-units --failed --no-legend --plain | cut -d' ' -f1")?;
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
        // Not the fault of whoever upgrades: the harness itself lets nobody wait for services to settle.
        modified.retain(|line| !line.ends_with(&format!("/usr/share/{}/product.toml", XIVO.package())));
        Ok(modified)
    }

    /// The kernel calls a file `(deleted)` that is mapped or run but no longer has a name. A service whose program is a script
    /// maps its interpreter: that its script was replaced is seen by the version that it says it is.
    fn replaced_files(&self) -> Result<Vec<String>> {
        self.lines(
            "for process in /proc/[0-9]*; do
                 { readlink $process/exe; grep -s ' /usr.* (deleted)$' $process/maps; } 2>/dev/null | grep '(deleted)$' |
                     sed \"s|^|$(cat $process/comm 2>/dev/null): |\" | sort -u
             done || :",
        )
    }

    fn leftovers(&self) -> Result<Vec<String>> {
        let name = XIVO.package();
        self.lines(&format!(
            "if [ -e /usr/sbin/policy-rc.d ]; then echo /usr/sbin/policy-rc.d; fi
             ls -d /run/systemd/transient/{name}* /run/systemd/system/{name}* /tmp/*{name}* /etc/apt/apt.conf.d/*{name}* 2>/dev/null || :
             pgrep -af '^(/usr/bin/)?(real-)?{name}( |$)' || :
             for process in $(cat /sys/fs/cgroup/system.slice/{name}-run.service/cgroup.procs 2>/dev/null); do
                 echo \"it left a process: $(tr '\\0' ' ' </proc/$process/cmdline)\"
             done
             flock --nonblock /run/{name}.lock true || echo 'the lock is held'
             find /etc /usr -name '*.dpkg-new' -o -name '*.dpkg-tmp' -o -name '*.ucf-new'
             find /var/lib/{name} -name '*.new' -o -name '*.tmp'"
        ))
    }

    fn ledger(&self) -> Result<Vec<String>> {
        let reports = self.machine.sh(&format!("{} history --json", XIVO.package()))?;
        let reports: Value = serde_json::from_str(&reports).context("the history")?;
        let mut conffiles = Vec::new();
        let mut findings = Vec::new();
        // What the last run that changed it says of a file is how it has to be.
        let mut last: BTreeMap<String, Conffile> = BTreeMap::new();
        for report in reports.as_array().context("the history is not a list")?.iter().rev() {
            for conffile in report["conffiles"].as_array().into_iter().flatten() {
                let conffile: Conffile = serde_json::from_value(conffile.clone()).context("a conffile of a report")?;
                last.insert(conffile.path.clone(), conffile);
            }
        }
        conffiles.extend(last.into_values());
        for conffile in conffiles {
            for (path, wanted) in
                [(Some(&conffile.path), conffile.sha256_after.clone()), (conffile.other.as_ref(), None)]
            {
                let Some(path) = path else { continue };
                let sum = self.machine.sh(&format!("sha256sum <'{path}' 2>/dev/null || echo '-'"))?;
                let sum = sum.split(' ').next().map(str::trim).filter(|sum| *sum != "-").map(str::to_owned);
                let is_other = Some(path) == conffile.other.as_ref();
                if (is_other && sum.is_none()) || (!is_other && sum != wanted) {
                    findings.push(format!("{path}: the ledger says {wanted:?}, but it has {sum:?}"));
                }
            }
        }
        Ok(findings)
    }

    fn drift(&self) -> Result<Vec<String>> {
        let differences = Portrait::of(self.machine)?.differences(self.installed);
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

/// What the ledger says of a conffile.
#[derive(Debug, Deserialize)]
struct Conffile {
    path: String,
    other: Option<String>,
    sha256_after: Option<String>,
}
