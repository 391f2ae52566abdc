//! Runs systemctl and systemd-run: restarts, states, re-execution.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::files;
use crate::system::command::{Failed, Program};

/// How long queries are retried, and how often. While systemd re-executes or shuts down, systemctl may fail: `Connection reset by peer`.
const AWAY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(50));

/// How long to wait for the next failure of a unit that systemd restarts repeatedly, and how often to check.
const FAILING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(5));

/// The timeout of a start or stop. Some units have none of their own, and one must not block all others.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// The properties of a unit. The words are those of systemd's D-Bus interface (org.freedesktop.systemd1(5)).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Its name with its suffix, of all its names the main one: `nginx.service`.
    pub(crate) id: String,
    /// `loaded`, `not-found`, `masked`, `bad-setting` …
    pub(crate) load: String,
    /// `active`, `inactive`, `failed`, `activating` …
    pub(crate) active: String,
    /// `enabled`, `disabled`, `static`, `generated` …; empty for one without a file.
    pub(crate) file: String,
    /// `simple`, `notify`, `oneshot` …; empty for what is no service.
    pub(crate) kind: String,
    /// How it ended last: `success`, `exit-code`, `start-limit-hit` …
    pub(crate) result: String,
    /// How often systemd has restarted it automatically since its last start.
    pub(crate) restarts: u64,
    /// Identifies the time from one start to the next stop, in the journal too; empty if it was never started.
    pub(crate) invocation: String,
    /// It is transient: a program made it, and it disappears when it stops.
    pub(crate) transient: bool,
    /// It must not be stopped by hand (`RefuseManualStop=`).
    pub(crate) refuses_stop: bool,
}

impl Unit {
    /// True for one that runs, as far as systemd knows.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "refreshing")
    }

    /// True for a oneshot unit that has succeeded.
    pub(crate) fn is_done(&self) -> bool {
        self.kind == "oneshot" && self.active == "inactive" && self.result == "success"
    }
}

/// True if systemd runs this machine (`sd_booted(3)`).
pub(crate) fn is_running() -> bool {
    files::exists("/run/systemd/system")
}

/// True if the machine is shutting down: systemd refuses to start anything (systemctl(1), `is-system-running`).
pub(crate) fn is_stopping() -> bool {
    is_running()
        && Program::new("systemctl").arg("is-system-running").stdout().is_ok_and(|state| state.trim() == "stopping")
}

/// The unit that this process runs in, from its control group (cgroups(7): the last part of the path, whatever the version).
pub(crate) fn own_unit() -> Option<String> {
    let groups = files::of_this_process("cgroup").unwrap_or_default();
    let mut units = groups.lines().filter_map(|line| line.rsplit_once('/')).map(|(_, unit)| unit);
    units.find(|unit| unit.ends_with(".service")).map(str::to_owned)
}

/// The name of a service that systemd does not know: `NAME.service`, or the first of `NAME-2.service` … It knows those in
/// which something still runs, for example what a hook of an earlier run has started.
///
/// # Errors
/// If it knows the first `limit` of them.
pub(crate) fn free_unit(name: &str, limit: u32) -> Result<String> {
    let names = (1..=limit)
        .map(|number| if number == 1 { format!("{name}.service") } else { format!("{name}-{number}.service") });
    for name in names {
        if show(&[&name])?.iter().all(|unit| unit.load == "not-found") {
            return Ok(name);
        }
    }
    bail!("earlier runs still have processes in too many units")
}

/// systemd-run(1), to which the program to run in a new unit is still to be added. The program has our stdin and output, and
/// those of the environment variables that are set.
pub(crate) fn run(unit: &str, description: &str, variables: &[&str]) -> Program {
    let systemd_run = Program::new("systemd-run")
        .setting("--quiet")
        .arg("--pipe")
        .arg("--collect")
        .arg("--service-type=exec")
        .arg(format!("--unit={unit}"))
        .arg(format!("--description={description}"))
        // Daemons that a maintainer script or hook starts, and an interrupted dpkg, outlive the unit.
        .setting("--property=KillMode=process")
        .setting("--property=TimeoutStopSec=15min")
        // If the kernel kills one hook that takes too much memory, that hook has failed, not the upgrade.
        .setting("--property=OOMPolicy=continue");
    let set = variables.iter().map(|variable| format!("--setenv={variable}"));
    set.fold(systemd_run, Program::setting).setting("--")
}

/// Starts a daemon in a new unit, with these arguments, variables, directory and owner. The unit stays while anything of it runs.
pub(crate) fn start_daemon(
    command: &[OsString],
    variables: &[&OsStr],
    directory: &Path,
    user: u32,
    group: u32,
) -> Result<()> {
    let set = |variable: &&OsStr| {
        let mut option = OsString::from("--setenv=");
        option.push(variable);
        option
    };
    Program::new("systemd-run")
        .setting("--quiet")
        .setting("--collect")
        .setting("--service-type=exec")
        // It may be a program that leaves a child in the background.
        .setting("--remain-after-exit")
        .setting("--property=KillMode=process")
        .setting(format!("--uid={user}"))
        .setting(format!("--gid={group}"))
        .setting(format!("--working-directory={}", directory.display()))
        .settings(variables.iter().map(set))
        .setting("--")
        // systemd replaces `$NAME` in arguments (systemd.service(5), "COMMAND LINES").
        .args(command.iter().map(|word| doubled(word, b'$')))
        .output()
        .map(drop)
}

/// A word with each of these characters twice.
fn doubled(word: &OsStr, character: u8) -> OsString {
    let twice = |byte: &u8| if *byte == character { vec![*byte; 2] } else { vec![*byte] };
    OsString::from_vec(word.as_bytes().iter().flat_map(twice).collect())
}

/// The properties of units, in the order of the arguments.
pub(crate) fn show(units: &[impl AsRef<OsStr>]) -> Result<Vec<Unit>> {
    // systemctl would show the manager itself.
    if units.is_empty() {
        return Ok(Vec::new());
    }
    let properties = "--property=Id,LoadState,ActiveState,UnitFileState,Type,Result,NRestarts,InvocationID,Transient,\
                      RefuseManualStop";
    let shown = parse(&query(|| Program::new("systemctl").args(["show", properties, "--"]).args(units), AWAY)?);
    ensure!(shown.len() == units.len(), "systemctl told of {} units when asked for {}", shown.len(), units.len());
    Ok(shown)
}

/// The names of the active services, and of the active units that start services.
pub(crate) fn active() -> Result<Vec<String>> {
    let of_interest = ["--state=active", "--type=service,socket,timer,path"];
    let list = ["list-units", "--plain", "--no-legend", "--full"];
    let listed = query(|| Program::new("systemctl").args(list).args(of_interest), AWAY)?;
    Ok(listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// Has systemd forget units that failed and of which there is no file any more: it would count them as failed until the next boot.
pub(crate) fn forget_gone() -> Result<()> {
    let list = ["list-units", "--failed", "--plain", "--no-legend", "--full"];
    let listed = query(|| Program::new("systemctl").args(list), AWAY)?;
    for line in listed.lines() {
        let mut words = line.split_whitespace();
        if let (Some(unit), Some("not-found")) = (words.next(), words.next()) {
            systemctl(&["reset-failed", unit])?;
        }
    }
    Ok(())
}

/// Starts a unit.
pub(crate) fn start(unit: &str) -> Result<()> {
    systemctl(&["start", unit])
}

/// Restarts a unit, or starts it if it is stopped. The start limit is reset, because systemd would refuse to start a unit that was
/// started too often.
pub(crate) fn restart(unit: &str) -> Result<()> {
    let Err(error) = systemctl(&["restart", unit]) else { return Ok(()) };
    if show(&[unit])?.iter().any(|unit| unit.result == "start-limit-hit") {
        systemctl(&["reset-failed", unit])?;
        return systemctl(&["start", unit]);
    }
    Err(error)
}

/// The state of a unit that could not be started. A unit that systemd restarts repeatedly has no result meanwhile: its next failure is
/// awaited.
pub(crate) fn show_failed(unit: &str) -> Result<Unit> {
    let (timeout, pause) = FAILING;
    let deadline = Instant::now() + timeout;
    loop {
        let unit = show(&[unit])?.into_iter().next().unwrap_or_default();
        let is_starting = unit.active == "activating" && matches!(unit.result.as_str(), "" | "success");
        if !is_starting || Instant::now() >= deadline {
            return Ok(unit);
        }
        sleep(pause);
    }
}

/// Stops a unit.
pub(crate) fn stop(unit: &str) -> Result<()> {
    systemctl(&["stop", unit])
}

/// Reloads the unit files (`systemctl daemon-reload`).
pub(crate) fn reload() -> Result<()> {
    systemctl(&["daemon-reload"])
}

/// Kills everything in a unit, and waits until it is down.
pub(crate) fn kill(unit: &str) -> Result<()> {
    let _ = systemctl(&["kill", "--signal=KILL", unit]);
    stop(unit)
}

/// Has systemd re-execute itself and waits until it answers. Units continue.
pub(crate) fn reexecute() -> Result<()> {
    systemctl(&["daemon-reexec"])?;
    query(|| Program::new("systemctl").args(["show", "--property=Version"]), AWAY).map(drop)
}

/// Repeats a query until it succeeds or the timeout is over.
fn query(question: impl Fn() -> Program, (timeout, pause): (Duration, Duration)) -> Result<String> {
    let deadline = Instant::now() + timeout;
    loop {
        match question().output() {
            Err(error) if is_cut_off(&error) && Instant::now() < deadline => sleep(pause),
            answer => return answer,
        }
    }
}

/// True if systemctl ended without an answer.
fn is_cut_off(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failed>().is_some_and(|failed| !failed.timed_out)
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    Program::new("systemctl").setting("--no-pager").args(arguments).time_limit(LIMIT).lines(&mut |_| ())
}

/// Reads what `systemctl show` prints: a paragraph of `Property=value` lines for each unit. Lines it does not know are passed
/// over, and so are paragraphs without an `Id`.
fn parse(text: &str) -> Vec<Unit> {
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let mut unit = Unit::default();
        for (property, value) in paragraph.lines().filter_map(|line| line.split_once('=')) {
            let text = || value.to_owned();
            match property {
                "Id" => unit.id = text(),
                "LoadState" => unit.load = text(),
                "ActiveState" => unit.active = text(),
                "UnitFileState" => unit.file = text(),
                "Type" => unit.kind = text(),
                "Result" => unit.result = text(),
                "NRestarts" => unit.restarts = value.parse().unwrap_or_default(),
                "InvocationID" => unit.invocation = text(),
                "Transient" => unit.transient = value == "yes",
                "RefuseManualStop" => unit.refuses_stop = value == "yes",
                _ => {}
            }
        }
        unit
    });
    paragraphs.filter(|unit| !unit.id.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_unit_has_its_paragraph() {
        let text = "Type=notify\nResult=success\nNRestarts=2\nId=ssh.service\nLoadState=loaded\nActiveState=active\n\
                    UnitFileState=enabled\nRefuseManualStop=yes\nTransient=no\nInvocationID=772b\n\nType=\nId=nope.service\n\
                    LoadState=not-found\nActiveState=inactive\nInvocationID=\n";
        let units = parse(text);
        let ssh = Unit {
            id: "ssh.service".to_owned(),
            load: "loaded".to_owned(),
            active: "active".to_owned(),
            file: "enabled".to_owned(),
            kind: "notify".to_owned(),
            result: "success".to_owned(),
            restarts: 2,
            invocation: "772b".to_owned(),
            transient: false,
            refuses_stop: true,
        };
        assert_eq!(units[0], ssh);
        assert_eq!((units[1].load.as_str(), units.len()), ("not-found", 2));
        assert!(units[0].is_active() && !units[1].is_active());
    }

    #[test]
    fn a_failed_query_is_repeated_until_the_timeout() {
        let directory = tempfile::tempdir().expect("a directory");
        let calls = directory.path().join("calls");
        // The query fails twice.
        let script = "echo >>\"$0\"; test \"$(wc -l <\"$0\")\" -gt 2 && echo yes";
        let question = || Program::new("sh").args(["-c", script]).args([&calls]);
        let hasty = (Duration::ZERO, Duration::ZERO);
        let cut_off = query(question, hasty).expect_err("no answer yet");
        assert!(cut_off.is::<Failed>(), "{cut_off:?}");
        assert_eq!(query(question, AWAY).expect("an answer"), "yes\n");
        let absent = query(|| Program::new("/nowhere/systemctl"), AWAY).expect_err("there is no such program");
        assert!(!absent.is::<Failed>(), "{absent:?}");
    }

    #[test]
    fn a_unit_that_runs_once_is_done_when_it_has_ended_well() {
        let mut unit = Unit { active: "inactive".to_owned(), result: "success".to_owned(), ..Unit::default() };
        assert!(!unit.is_done(), "a service that ended is down");
        "oneshot".clone_into(&mut unit.kind);
        assert!(unit.is_done());
        "exit-code".clone_into(&mut unit.result);
        assert!(!unit.is_done());
    }

    proptest! {
        #[test]
        fn whatever_systemctl_prints_nothing_breaks(text: String, lines in "((Id|NRestarts|Transient)=[a-z0-9]{0,30}\n{1,3}){0,9}") {
            let _ = parse(&text);
            prop_assert!(parse(&lines).len() <= lines.matches("Id=").count());
        }
    }
}
