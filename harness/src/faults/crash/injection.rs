//! A fault to inject: the action and its location.

use std::fmt::Write as _;

use super::call::{Call, DURABLE};
use super::phase::{NO_RESUME_AT_BOOT, Phase};
use crate::packages::package::Package;

/// Where a fault is injected into an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// Before the worker process of the upgrader makes this system call.
    Write(Call),
    /// Before dpkg makes this system call, in its n-th run that changes something.
    Dpkg(usize, Call),
    /// In a maintainer script: `asterisk.postinst`.
    Script(String),
    /// In a hook of this phase: `pre-upgrade`.
    Hook(&'static str),
    /// In the second of two migrations, after it has changed something.
    Migration,
    /// Before systemd starts this service; in a run, its new version.
    Start(String),
}

/// The fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The upgrader's process is killed.
    KillUpgrader,
    /// dpkg is killed.
    KillDpkg,
    /// The upgrader is killed, and with it everything that it has started.
    KillAll,
    /// The machine loses its power. With `alone` the unit at boot resumes the run, else the admin does.
    CutPower { alone: bool },
    /// It fails, each time that it runs.
    Fail,
    /// The filesystem of this directory, one of its own, fills up.
    Fill(&'static str),
}

/// A fault and where it is injected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Injection {
    pub(super) location: Location,
    pub(super) action: Action,
}

/// Where the injection is prepared on a machine: in memory, so that it is gone when the machine boots.
const PREPARED: &str = "/run/crash";

/// The size of a filesystem that is going to be full, above what is on it.
const ROOM: &str = "64M";

impl Injection {
    /// Prepares it on a machine, as a shell script.
    pub(super) fn script(&self, phase: Phase) -> String {
        let mut script = format!("mkdir -p {PREPARED}\n");
        if let Action::Fill(directory) = self.action {
            // The same files on a filesystem of their own.
            let _ = write!(
                script,
                "used=$(du -sm {directory} 2>/dev/null | cut -f1); mkdir -p {directory} /run/filesystem
                mount -t tmpfs -o size=$((${{used:-0}} + {room}))M,mode=$(stat -c %a {directory}) tmpfs /run/filesystem
                cp -a {directory}/. /run/filesystem; mount --move /run/filesystem {directory}\n",
                room = ROOM.trim_end_matches('M'),
            );
        }
        let action = self.action.script();
        let once = if self.action == Action::Fail {
            format!("mkdir -p {PREPARED}/injected")
        } else {
            format!("mkdir {PREPARED}/injected 2>/dev/null || exit 0")
        };
        match &self.location {
            Location::Write(call) => {
                let signal = if self.action == Action::KillUpgrader { "KILL" } else { "STOP" };
                script.push_str(&traced(
                    phase,
                    &format!("-e trace={0} -e inject={0}:signal={signal}:when={1}", call.name, call.nth),
                ));
                if signal == "STOP" {
                    script.push_str(&program("action", &format!(
                        "until grep -qs 'stopped by SIGSTOP' {PREPARED}/trace; do sleep 0.01; done\n{once}\n{action}\nkill -CONT $(cat /run/xivo-upgrade.lock)"
                    )));
                    let _ = writeln!(script, "systemd-run --quiet --collect {PREPARED}/action");
                }
            }
            Location::Dpkg(run, Call { name, nth, .. }) => {
                let and_all = if self.action == Action::KillAll { action.as_str() } else { "" };
                script.push_str(&program("dpkg", &format!(
                    "{COUNT_RUNS}
                    [ $run = {run} ] || exec /usr/bin/dpkg \"$@\"
                    mkdir {PREPARED}/injected
                    strace -o {PREPARED}/trace -e trace={name} -e inject={name}:signal=KILL:when={nth} /usr/bin/dpkg \"$@\"
                    {and_all}
                    kill -KILL $$"
                )));
            }
            Location::Script(name) => {
                script.push_str(&program("script", &format!("[ $1 = {name} ] || exit 0\n{once}\n{action}")));
            }
            Location::Hook(phase) => {
                script.push_str(&program("hook", &format!("[ $UPGRADE_PHASE = {phase} ] || exit 0\n{once}\n{action}")));
            }
            Location::Migration => {
                let word = if self.action == Action::Fail { "fail" } else { "wait" };
                let _ = writeln!(script, "{PSQL} \"INSERT INTO injection VALUES ('{word}')\"");
                if self.action == Action::Fail {
                    let _ = writeln!(script, "mkdir {PREPARED}/injected");
                } else {
                    script.push_str(&program("action", &format!(
                        "until {PSQL} \"SELECT wait_event FROM pg_stat_activity\" | grep -q PgSleep; do sleep 0.05; done\n{once}\n{action}"
                    )));
                    let _ = writeln!(script, "systemd-run --quiet --collect {PREPARED}/action");
                }
            }
            Location::Start(service) => {
                let turn = match phase {
                    Phase::Back => "",
                    // What systemd starts by itself at the same time is of the old version.
                    _ => "grep -q \"'1.2.3'\" /usr/libexec/$1 || exit 0\n",
                };
                script.push_str(&program("start", &format!("{turn}{once}\n{action}")));
                script.push_str(&drop_in(
                    &format!("{service}.service"),
                    &format!("ExecStartPre={PREPARED}/start {service}"),
                ));
            }
        }
        script.push_str("systemctl daemon-reload\n");
        script
    }

    /// A shell command that succeeds if the fault was injected; for machines that have not lost their power since.
    pub(super) fn was_injected(&self) -> String {
        match (&self.location, self.action) {
            (Location::Write(_), Action::KillUpgrader) | (Location::Dpkg(..), _) => {
                format!("grep -q 'killed by SIGKILL' {PREPARED}/trace")
            }
            _ => format!("test -d {PREPARED}/injected"),
        }
    }

    /// Removes what [`Injection::script`] prepared, and frees a disk that is full, as a shell script.
    pub(super) fn cleanup(&self) -> String {
        let core = match self.action {
            Action::Fill(directory) => format!("{directory}/core"),
            _ => String::new(),
        };
        format!("rm -rf {PREPARED} {core} /run/systemd/system/*.d/injection.conf; systemctl daemon-reload")
    }
}

impl Action {
    fn script(self) -> String {
        match self {
            Self::KillUpgrader => "kill -KILL $(cat /run/xivo-upgrade.lock)".to_owned(),
            // This runs in a maintainer script, whose parent is dpkg.
            Self::KillDpkg => "kill -KILL $(ps -o ppid= -p $PPID)".to_owned(),
            Self::KillAll => {
                "echo 1 >/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$(cat /run/xivo-upgrade.lock)/cgroup)/cgroup.kill"
                    .to_owned()
            }
            Self::CutPower { .. } => format!("touch {CUT}\nsleep infinity"),
            Self::Fail => "exit 1".to_owned(),
            Self::Fill(directory) => format!("cat /dev/zero >{directory}/core 2>/dev/null || :"),
        }
    }
}

/// Queries the database of these machines: the table `injection` says which fault the second migration injects.
pub(super) const PSQL: &str = "runuser -u postgres -- psql -XAtq --dbname=asterisk --command";

/// Exists when the power has to be cut.
pub(super) const CUT: &str = "/run/crash/cut";

/// The beginning of a script that stands in for dpkg: `$run` is how often it was run to change something.
const COUNT_RUNS: &str = r#"case " $* " in
*" --unpack "* | *" --configure "* | *" --remove "* | *" --install "*) ;;
*) exec /usr/bin/dpkg "$@" ;;
esac
echo >>/run/crash/runs
run=$(wc -l </run/crash/runs)"#;

/// Records everything that can be interrupted, as a shell script; [`COUNTED`] prints it.
pub(super) fn count(phase: Phase) -> String {
    let mut script = format!("mkdir -p {PREPARED}\n");
    script.push_str(&traced(phase, &format!("-y -s 300 -e trace={DURABLE},write")));
    script.push_str(&program("dpkg", &format!(
        "{COUNT_RUNS}\nexec strace -o {PREPARED}/trace.dpkg.$run -e trace=fsync,?rename,renameat,renameat2 /usr/bin/dpkg \"$@\""
    )));
    script.push_str(&program("script", &format!("echo $1 >>{PREPARED}/scripts")));
    script.push_str("systemctl daemon-reload\n");
    script
}

/// The same, with a maintainer script that fails each time that it runs.
pub(super) fn count_and_fail(script: &str) -> String {
    count(Phase::Run) + &program("script", &format!("[ $1 != {script} ]"))
}

/// Prints what was counted: the upgrader's trace, those of each run of dpkg, and the names of the maintainer scripts, in sections.
pub(super) const COUNTED: &str = "cd /run/crash; cat trace; echo ==; cat scripts 2>/dev/null || :
for trace in $(ls trace.dpkg.* 2>/dev/null | sort -t. -k3n); do echo ==; cat $trace; done";

/// Runs the process of a unit under strace(1), without the processes that it starts.
fn traced(phase: Phase, options: &str) -> String {
    let (unit, verb) = phase.unit();
    drop_in(
        unit,
        &format!(
            "ExecStart=\nExecStart=/usr/bin/strace -o {PREPARED}/trace {options} /usr/bin/real-xivo-upgrade {verb}"
        ),
    )
}

/// A script that writes a drop-in of a unit's.
fn drop_in(unit: &str, lines: &str) -> String {
    format!(
        "mkdir -p /run/systemd/system/{unit}.d\ncat >/run/systemd/system/{unit}.d/injection.conf <<'END'\n[Service]\n{lines}\nEND\n"
    )
}

/// A script that writes a program.
fn program(name: &str, text: &str) -> String {
    format!("cat >{PREPARED}/{name} <<'END'\n#!/bin/sh\n{text}\nEND\nchmod 755 {PREPARED}/{name}\n")
}

/// Has all maintainer scripts of packages run a prepared program first.
pub(super) fn instrument(packages: &mut [Package]) {
    for package in packages {
        for script in ["preinst", "postinst", "prerm", "postrm"] {
            let call =
                format!("set -e\nif [ -x {PREPARED}/script ]; then {PREPARED}/script {}.{script}; fi\n", package.name);
            let text = package.script_mut(script);
            *text = text.replacen("set -e\n", &call, 1);
        }
    }
}

/// The package with the other instruments: a dpkg for apt, a hook of each phase, and a condition of the unit at boot.
pub(super) fn instruments() -> Package {
    let or = |name: &str, otherwise: &str| {
        format!("#!/bin/sh\nif [ -x {PREPARED}/{name} ]; then exec {PREPARED}/{name} \"$@\"; fi\n{otherwise}")
    };
    let mut package = Package::new("crash-instruments", "1.0")
        .file("/opt/crash/dpkg", or("dpkg", "exec /usr/bin/dpkg \"$@\"\n"), 0o755)
        .file("/etc/apt/apt.conf.d/99crash", "Dir::Bin::dpkg \"/opt/crash/dpkg\";\n", 0o644)
        .file(
            "/etc/systemd/system/xivo-upgrade-resume.service.d/crash.conf",
            format!("[Unit]\nConditionPathExists=!{NO_RESUME_AT_BOOT}\n"),
            0o644,
        );
    for phase in ["pre-upgrade", "post-upgrade"] {
        package = package.file(&format!("/etc/xivo-upgrade/{phase}.d/50-crash"), or("hook", ""), 0o755);
    }
    package.control("Depends", "xivo, xivo-upgrade")
}
