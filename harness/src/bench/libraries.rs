//! How quick the scan for services that run replaced files is.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{RUNS, Sheet, median};
use crate::machines::engine::Engine;
use crate::machines::image::Debian;
use crate::machines::machine::Machine;
use crate::packages::binaries;

/// Where the scan lies on the machine.
const SCAN: &str = "/usr/local/bin/obsolete";

/// What a machine in the field runs beside the product, from Debian. `postgrey` is written in Perl, `fail2ban` in Python.
const NEIGHBOURS: &str = "ssh cron rsyslog nginx postgrey fail2ban postfix";

/// A replacement of real libraries and programs with new files, as an upgrade does it, and nobody restarts anything.
const REPLACED: [(&str, &str); 3] = [
    ("scripts in Perl and Python", "postgrey fail2ban"),
    ("openssl", "$(dpkg-query -W -f '${Package}\\n' 'libssl3*')"),
    ("libc", "libc6"),
];

/// Compares the scan for services that run replaced files with needrestart's, on real upgrades of real libraries: which
/// services, and how long it takes.
pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    let program = std::fs::read(binaries::build_example("obsolete")?)?;
    let engine = Engine::connect()?;
    engine.sweep()?;
    let machine = Machine::boot(&engine, &debian.machine())?;
    prepare(&machine, &program)?;
    sheet.title(&format!("Services that run replaced files on {debian} (medians of {RUNS}, in turns)"))?;
    for (what, packages) in REPLACED {
        machine.sh(&format!(
            "export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1; apt-get -qq -y install --reinstall {packages} \
             >/dev/null 2>&1"
        ))?;
        compare(&machine, what, sheet)?;
    }
    Ok(())
}

/// Installs the neighbours. Maintainer scripts may start services this once and not again.
fn prepare(machine: &Machine, program: &[u8]) -> Result<()> {
    machine.write(SCAN, program, 0o755)?;
    machine.sh(&format!(
        "cp /etc/apt/debian-sources/* /etc/apt/sources.list.d/; export DEBIAN_FRONTEND=noninteractive; apt-get -qq update
        apt-get -qq -y --no-install-recommends install needrestart python3-systemd {NEIGHBOURS} >/dev/null 2>&1 || true
        printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d
        systemctl start ssh"
    ))?;
    let running = machine.sh("systemctl list-units --type=service --state=running --no-legend | wc -l")?;
    ensure!(running.trim().parse::<usize>()? >= 7, "only {} services run", running.trim());
    ensure!(machine.sh(SCAN)?.is_empty(), "something is old before anything was replaced");
    Ok(())
}

fn compare(machine: &Machine, what: &str, sheet: &mut Sheet<'_>) -> Result<()> {
    let theirs = services(&machine.sh("needrestart -b 2>/dev/null | sed -n 's/^NEEDRESTART-SVC: //p'")?);
    let ours = services(&machine.sh(SCAN)?);
    let (mut their_times, mut our_times) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        their_times.push(time(machine, "needrestart -b")?);
        our_times.push(time(machine, SCAN)?);
    }
    let (their_time, our_time) = (median(their_times, Duration::cmp), median(our_times, Duration::cmp));
    sheet.line(&format!("{what} replaced: {}", ours.join(" ")))?;
    for (who, only) in [("needrestart", only_in(&theirs, &ours)), ("us", only_in(&ours, &theirs))] {
        if !only.is_empty() {
            sheet.line(&format!("  named by {who} alone: {}", only.join(" ")))?;
        }
    }
    sheet.compared(&format!("{what} replaced, ours beside needrestart"), milli(our_time), milli(their_time), "ms")
}

/// The names of services in a listing, in order.
fn services(listing: &str) -> Vec<String> {
    let mut names: Vec<String> = listing.lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn only_in(these: &[String], others: &[String]) -> Vec<String> {
    these.iter().filter(|name| !others.contains(name)).cloned().collect()
}

/// How long a program takes on the machine: by its own clock, so that what the engine takes to start it is not counted.
fn time(machine: &Machine, command: &str) -> Result<Duration> {
    let seen = machine.sh(&format!("date +%s%N; {command} >/dev/null 2>&1; date +%s%N"))?;
    let (began, ended) = seen.trim().split_once('\n').context("two times")?;
    Ok(Duration::from_nanos(ended.parse::<u64>()?.saturating_sub(began.parse()?)))
}

fn milli(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
