//! What is done, and where.

use std::fmt::Write as _;

use super::call::{Call, DURABLE};
use super::database::ASK;
use super::scene::Scene;
use crate::packages::package::Package;

/// Where something is done to a machine in the middle of its upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Where the process of the upgrader that works is about to make this call.
    Write(Call),
    /// Where dpkg is about to make this call, when it is run this often to change something.
    Dpkg(usize, Call),
    /// In a maintainer script: `asterisk.postinst`.
    Script(String),
    /// In a hook of this phase: `pre-upgrade`.
    Hook(&'static str),
    /// In the second of two migrations, after it has changed something.
    Migration,
    /// Where systemd is about to start this service, in a run the new version of it.
    Start(String),
}

/// What is done there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// The upgrader's process is killed.
    KillUpgrader,
    /// dpkg is killed.
    KillDpkg,
    /// The upgrader is killed, and with it everything that it has started.
    KillAll,
    /// The machine loses its power. If nobody starts the upgrader again, the unit at boot has to do it.
    CutPower { alone: bool },
    /// It fails, this time and each time again.
    Fail,
    /// The filesystem of this directory, one of its own, fills up.
    Fill(&'static str),
}

/// Something that is done somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Strike {
    pub(super) place: Place,
    pub(super) deed: Deed,
}

/// What is prepared on a machine so that something can happen there. All of that is in memory, and gone when the machine boots.
const PREPARED: &str = "/run/crash";

/// The size of a filesystem that is going to be full, above what is on it.
const ROOM: &str = "64M";

impl Strike {
    /// Prepares it on a machine, as a shell script.
    pub(super) fn script(&self, scene: Scene) -> String {
        let mut script = format!("mkdir -p {PREPARED}\n");
        if let Deed::Fill(directory) = self.deed {
            // The same files on a filesystem of their own.
            let _ = write!(
                script,
                "used=$(du -sm {directory} 2>/dev/null | cut -f1); mkdir -p {directory} /run/filesystem
                mount -t tmpfs -o size=$((${{used:-0}} + {room}))M,mode=$(stat -c %a {directory}) tmpfs /run/filesystem
                cp -a {directory}/. /run/filesystem; mount --move /run/filesystem {directory}\n",
                room = ROOM.trim_end_matches('M'),
            );
        }
        let deed = self.deed.script();
        let once = if self.deed == Deed::Fail {
            format!("mkdir -p {PREPARED}/struck")
        } else {
            format!("mkdir {PREPARED}/struck 2>/dev/null || exit 0")
        };
        match &self.place {
            Place::Write(call) => {
                let signal = if self.deed == Deed::KillUpgrader { "KILL" } else { "STOP" };
                script.push_str(&traced(
                    scene,
                    &format!("-e trace={0} -e inject={0}:signal={signal}:when={1}", call.name, call.nth),
                ));
                if signal == "STOP" {
                    script.push_str(&program("deed", &format!(
                        "until grep -qs 'stopped by SIGSTOP' {PREPARED}/trace; do sleep 0.01; done\n{once}\n{deed}\nkill -CONT $(cat /run/xivo-upgrade.lock)"
                    )));
                    let _ = writeln!(script, "systemd-run --quiet --collect {PREPARED}/deed");
                }
            }
            Place::Dpkg(run, Call { name, nth, .. }) => {
                let and_all = if self.deed == Deed::KillAll { deed.as_str() } else { "" };
                script.push_str(&program("dpkg", &format!(
                    "{COUNT_RUNS}
                    [ $run = {run} ] || exec /usr/bin/dpkg \"$@\"
                    mkdir {PREPARED}/struck
                    strace -o {PREPARED}/trace -e trace={name} -e inject={name}:signal=KILL:when={nth} /usr/bin/dpkg \"$@\"
                    {and_all}
                    kill -KILL $$"
                )));
            }
            Place::Script(name) => {
                script.push_str(&program("script", &format!("[ $1 = {name} ] || exit 0\n{once}\n{deed}")));
            }
            Place::Hook(phase) => {
                script.push_str(&program("hook", &format!("[ $UPGRADE_PHASE = {phase} ] || exit 0\n{once}\n{deed}")));
            }
            Place::Migration => {
                let word = if self.deed == Deed::Fail { "fail" } else { "wait" };
                let _ = writeln!(script, "{ASK} \"INSERT INTO strike VALUES ('{word}')\"");
                if self.deed == Deed::Fail {
                    let _ = writeln!(script, "mkdir {PREPARED}/struck");
                } else {
                    script.push_str(&program("deed", &format!(
                        "until {ASK} \"SELECT wait_event FROM pg_stat_activity\" | grep -q PgSleep; do sleep 0.05; done\n{once}\n{deed}"
                    )));
                    let _ = writeln!(script, "systemd-run --quiet --collect {PREPARED}/deed");
                }
            }
            Place::Start(service) => {
                let turn = match scene {
                    Scene::Back => "",
                    // What systemd starts by itself at the same time is of the old version.
                    _ => "grep -q \"'1.2.3'\" /usr/libexec/$1 || exit 0\n",
                };
                script.push_str(&program("start", &format!("{turn}{once}\n{deed}")));
                script.push_str(&drop_in(
                    &format!("{service}.service"),
                    &format!("ExecStartPre={PREPARED}/start {service}"),
                ));
            }
        }
        script.push_str("systemctl daemon-reload\n");
        script
    }

    /// A shell command that succeeds once it has happened; asked for on a machine that has not lost its power since.
    pub(super) fn is_done(&self) -> String {
        match (&self.place, self.deed) {
            (Place::Write(_), Deed::KillUpgrader) | (Place::Dpkg(..), _) => {
                format!("grep -q 'killed by SIGKILL' {PREPARED}/trace")
            }
            _ => format!("test -d {PREPARED}/struck"),
        }
    }

    /// Takes away what [`Strike::script`] brought, and makes room again on a disk that is full, as a shell script: it happened once.
    pub(super) fn mend(&self) -> String {
        let core = match self.deed {
            Deed::Fill(directory) => format!("{directory}/core"),
            _ => String::new(),
        };
        format!("rm -rf {PREPARED} {core} /run/systemd/system/*.d/strike.conf; systemctl daemon-reload")
    }
}

impl Deed {
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

/// There when the power has to be cut.
pub(super) const CUT: &str = "/run/crash/cut";

/// The beginning of a script that dpkg's place takes: `$run` is how often it was run to change something.
const COUNT_RUNS: &str = r#"case " $* " in
*" --unpack "* | *" --configure "* | *" --remove "* | *" --install "*) ;;
*) exec /usr/bin/dpkg "$@" ;;
esac
echo >>/run/crash/runs
run=$(wc -l </run/crash/runs)"#;

/// Counts everything that can be interrupted, as a shell script; what it finds is in [`COUNTED`].
pub(super) fn count(scene: Scene) -> String {
    let mut script = format!("mkdir -p {PREPARED}\n");
    script.push_str(&traced(scene, &format!("-y -s 300 -e trace={DURABLE},write")));
    script.push_str(&program("dpkg", &format!(
        "{COUNT_RUNS}\nexec strace -o {PREPARED}/trace.dpkg.$run -e trace=fsync,?rename,renameat,renameat2 /usr/bin/dpkg \"$@\""
    )));
    script.push_str(&program("script", &format!("echo $1 >>{PREPARED}/scripts")));
    script.push_str("systemctl daemon-reload\n");
    script
}

/// Lets a maintainer script fail, each time that it runs, and counts.
pub(super) fn count_and_fail(script: &str) -> String {
    count(Scene::Run) + &program("script", &format!("[ $1 != {script} ]"))
}

/// Prints what was counted: the upgrader's trace, those of each run of dpkg, and the names of the maintainer scripts, in sections.
pub(super) const COUNTED: &str = "cd /run/crash; cat trace; echo ==; cat scripts 2>/dev/null || :
for trace in $(ls trace.dpkg.* 2>/dev/null | sort -t. -k3n); do echo ==; cat $trace; done";

/// Lets strace(1) look at the process that works in a unit: not at what it starts.
fn traced(scene: Scene, options: &str) -> String {
    let (unit, verb) = scene.unit();
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
        "mkdir -p /run/systemd/system/{unit}.d\ncat >/run/systemd/system/{unit}.d/strike.conf <<'END'\n[Service]\n{lines}\nEND\n"
    )
}

/// A script that writes a program.
fn program(name: &str, text: &str) -> String {
    format!("cat >{PREPARED}/{name} <<'END'\n#!/bin/sh\n{text}\nEND\nchmod 755 {PREPARED}/{name}\n")
}

/// Gives all maintainer scripts of packages a place in which something can happen.
pub(super) fn make_places(packages: &mut [Package]) {
    for package in packages {
        for script in ["preinst", "postinst", "prerm", "postrm"] {
            let text = package.scripts.entry(script.to_owned()).or_insert_with(|| "#!/bin/sh\nset -e\n".to_owned());
            let place =
                format!("set -e\nif [ -x {PREPARED}/script ]; then {PREPARED}/script {}.{script}; fi\n", package.name);
            *text = text.replacen("set -e\n", &place, 1);
        }
    }
}

/// The package that brings the places on a machine: a dpkg for apt, a hook of each phase, and a condition of the unit at boot.
pub(super) fn places() -> Package {
    let or = |name: &str, otherwise: &str| {
        format!("#!/bin/sh\nif [ -x {PREPARED}/{name} ]; then exec {PREPARED}/{name} \"$@\"; fi\n{otherwise}")
    };
    let mut package = Package::new("crash-places", "1.0")
        .file("/opt/crash/dpkg", or("dpkg", "exec /usr/bin/dpkg \"$@\"\n"), 0o755)
        .file("/etc/apt/apt.conf.d/99crash", "Dir::Bin::dpkg \"/opt/crash/dpkg\";\n", 0o644)
        .file(
            "/etc/systemd/system/xivo-upgrade-resume.service.d/crash.conf",
            format!("[Unit]\nConditionPathExists=!{}\n", super::scene::ASLEEP),
            0o644,
        );
    for phase in ["pre-upgrade", "post-upgrade"] {
        package = package.file(&format!("/etc/xivo-upgrade/{phase}.d/50-crash"), or("hook", ""), 0o755);
    }
    package.control.insert("Depends".to_owned(), "xivo, xivo-upgrade".to_owned());
    package
}
