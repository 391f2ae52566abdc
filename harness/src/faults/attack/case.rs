//! An attack on a machine: what is done in which order, and what is checked afterwards.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::definition::{AdminCommand, Attack, AttackKind};
use super::fixture::{AttackFixture, PACKAGE, RELEASES, Untouched, attacker};
use crate::at_once::both;
use crate::data::one_line;
use crate::machines::image::Debian;
use crate::machines::machine::Machine;
use crate::machines::transcript::Transcript;

/// Watches the memory of the upgrader.
const WATCH: &str = include_str!("watch.pl");

/// Tells [`WATCH`] that the command has ended.
const COMMAND_OVER: &str = "/run/attack-command-over";

/// How many seconds the account may take to prepare its attack, and to take notice of its end.
const READY: u32 = 60;

/// The exit code of a command that took too long (timeout(1) with SIGKILL).
const TOO_LONG: i64 = 137;

/// The exit code of a run that has changed nothing.
const REFUSED: i64 = 1;

/// How many more seconds a command may take to start and to be killed.
const MORE: u64 = 60;

/// Makes a service of the new release fail. In memory, so that it is gone when the machine boots again.
const SERVICE_FAILS: &str = "mkdir -p /run/systemd/system/nginx.service.d
    printf '[Service]\\nExecStartPre=/bin/sh -c \"! grep -q 1.2.2 /usr/libexec/nginx\"\\n' >/run/systemd/system/nginx.service.d/fails.conf
    systemctl daemon-reload";

const SERVICE_IS_FIXED: &str = "rm -rf /run/systemd/system/nginx.service.d; systemctl daemon-reload";

/// The processes of root that belong to the attacker's unit.
const ROOT_PROCESSES: &str = "for process in /proc/[0-9]*; do
        if grep -qs attacker.service $process/cgroup && grep -qs '^Uid:.*[[:space:]]0[[:space:]]' $process/status; then
            tr '\\0' ' ' <$process/cmdline; echo
        fi
    done";

/// Ends the attack. The account's program may end by itself.
const END: &str =
    "touch /run/attack-over; timeout 5 sh -c 'while systemctl -q is-active attacker; do sleep 0.05; done' || :
    systemctl kill --signal=KILL attacker 2>/dev/null || :; rm -f /run/attack-over
    until ! systemctl -q is-active attacker; do sleep 0.05; done";

/// Kills an upgrader that hangs.
const KILL: &str = "for process in /proc/[0-9]*; do
        case $(readlink $process/exe || :) in */xivo-upgrade | */real-xivo-upgrade) kill -KILL ${process#/proc/} || : ;; esac
    done";

/// An attack on a machine of a Debian release.
#[derive(Debug, Clone)]
pub(super) struct AttackCase {
    pub(super) name: String,
    pub(super) attack: Attack,
    pub(super) debian: Debian,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct AttackOutcome {
    /// What the account got, or what does not hold.
    pub(super) wrong: Vec<String>,
    /// What was printed.
    pub(super) transcripts: Vec<String>,
    /// True if a command did not end.
    hangs: bool,
    /// True if a command was refused: then the account's program may not have come to its attack.
    refused: bool,
}

impl fmt::Display for AttackCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.debian)
    }
}

impl AttackCase {
    pub(super) fn kind(&self) -> AttackKind {
        self.attack.kind
    }

    /// Runs it: the account begins, the admin works, the account ends, and the admin upgrades once more.
    ///
    /// # Errors
    /// If the machine cannot be prepared, or cannot be examined.
    pub(super) fn perform(&self, fixture: &AttackFixture) -> Result<AttackOutcome> {
        let world = fixture.world()?;
        let machine = &world.machine;
        machine.sh(&self.attack.prepare).context("prepare")?;
        if self.attack.service_fails {
            machine.sh(SERVICE_FAILS)?;
        }
        let before = Untouched::collect(machine)?;
        self.attack(machine)?;
        let mut outcome = AttackOutcome::default();
        for command in &self.attack.commands {
            self.command(command, machine, &mut outcome)?;
            if outcome.hangs {
                break;
            }
        }
        let processes = machine.sh(ROOT_PROCESSES)?;
        outcome.wrong.extend(processes.lines().map(|line| format!("the account has a process of root: {line}")));
        machine.sh(END)?;
        let was_tried =
            || Ok::<_, anyhow::Error>(machine.command(&["test", "-e", "/var/lib/phoned/tried"]).run()?.exit == 0);
        if !outcome.hangs && !outcome.refused && !was_tried()? {
            outcome.wrong.push("the account's program did not come to its attack".to_owned());
        }
        outcome.wrong.extend(Untouched::collect(machine)?.differences(&before, &self.attack.own));
        check(machine, &self.attack.holds, &mut outcome)?;
        if outcome.hangs {
            return Ok(outcome);
        }
        machine.sh(&format!("{}\n{SERVICE_IS_FIXED}", self.attack.fix))?;
        let last = AdminCommand {
            command: "xivo-upgrade --yes".to_owned(),
            reboot: false,
            before: String::new(),
            exit: vec![0, 6],
            says: Vec::new(),
            seconds: 120,
        };
        let before = Untouched::collect(machine)?;
        self.command(&last, machine, &mut outcome)?;
        if !outcome.hangs {
            let installed = machine.version(PACKAGE)?;
            if installed != RELEASES[1] {
                outcome.wrong.push(format!("after the attack, one more upgrade left {PACKAGE} at {installed}"));
            }
            outcome.wrong.extend(Untouched::collect(machine)?.differences(&before, &self.attack.own));
        }
        Ok(outcome)
    }

    /// Starts the account's program, and waits until it has prepared its attack.
    fn attack(&self, machine: &Machine) -> Result<()> {
        let start = attacker(&self.attack.program)?;
        let ready = format!("timeout {READY} sh -c 'until test -e /var/lib/phoned/ready; do sleep 0.02; done'");
        machine.sh(&format!("{start}\n{ready}")).context("the account's program does not begin").map(drop)
    }

    /// Runs a command of the admin.
    fn command(&self, command: &AdminCommand, machine: &Machine, outcome: &mut AttackOutcome) -> Result<()> {
        if command.reboot {
            machine.shut_down()?;
            machine.power_on()?;
            machine.sh("rm -f /var/lib/phoned/ready")?;
            self.attack(machine)?;
        }
        let AdminCommand { command: line, before, exit, says, seconds, .. } = command;
        if line.is_empty() {
            return Ok(());
        }
        let limited = format!("{before}\nexec timeout --foreground --signal=KILL {seconds} {line}");
        let limit = Duration::from_secs(seconds + MORE);
        let most = (self.attack.memory * 1000).to_string();
        let watch = ["perl", "-e", WATCH, COMMAND_OVER, &most];
        let (peak, ran) = both(
            || machine.command(&watch).timeout(limit + Duration::from_secs(MORE)).run(),
            || {
                let ran = machine.command(&["sh", "-c", &limited]).timeout(limit).run();
                machine.sh(&format!("touch {COMMAND_OVER}"))?;
                ran
            },
        );
        let ran = Transcript { command: line.clone(), ..ran? };
        let wrong = &mut outcome.wrong;
        let peak: u64 = peak?.screen.trim().parse().context("the watcher of the memory printed no number")?;
        if peak > self.attack.memory * 1000 {
            wrong.push(format!("`{line}` took {} MB of memory, and was killed", peak / 1000));
        }
        let hangs = ran.exit == TOO_LONG && peak <= self.attack.memory * 1000;
        if hangs {
            wrong.push(format!("`{line}` did not end within {seconds} s"));
            machine.sh(KILL)?;
        } else if !exit.contains(&ran.exit) {
            wrong.push(format!("`{line}` ended with exit code {}: {}", ran.exit, last_line(&ran.screen)));
        }
        if ran.screen.contains("panicked") {
            wrong.push(format!("`{line}` panicked"));
        }
        wrong.extend(
            says.iter()
                .filter(|text| !hangs && !ran.screen.contains(*text))
                .map(|text| format!("`{line}` does not say {text:?}")),
        );
        if ran.screen.lines().any(|line| line.starts_with("FORGED") || line.contains("\u{1b}[7m")) {
            wrong.push(format!("`{line}` prints a forged line or an escape sequence of the account"));
        }
        outcome.refused |= ran.exit == REFUSED;
        outcome.hangs |= hangs;
        outcome.transcripts.push(ran.to_string());
        Ok(())
    }
}

/// Runs the checks of an attack, each line alone.
fn check(machine: &Machine, holds: &str, outcome: &mut AttackOutcome) -> Result<()> {
    for line in holds.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let checked = machine.command(&["sh", "-euc", line]).run()?;
        if checked.exit != 0 {
            outcome.wrong.push(format!("does not hold: {line} {}", one_line(&checked.screen)));
        }
    }
    Ok(())
}

/// The error of a run, or the last line that it printed.
fn last_line(screen: &str) -> &str {
    let error = screen.lines().rev().find(|line| line.starts_with("error: "));
    error.or_else(|| screen.lines().next_back()).unwrap_or_default()
}
