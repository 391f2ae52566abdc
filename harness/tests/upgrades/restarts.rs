//! Which services are restarted after an upgrade, and how crashes are noticed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::{self, upgradable};
use harness::observe::inventory::SystemState;
use harness::observe::timeline::{Events, Mark};
use harness::packages::package::Package;
use harness::packages::shipped::SERVICES;
use harness::packages::shipped::definition::PRODUCT;

use crate::rollback::keep_failed_upgrades;
use crate::scenario::scenarios;

scenarios! {
    /// A masked or disabled service stays off and is named; one that is disabled and runs is restarted.
    Compared disabled_services;
    /// A service that starts and crashes three seconds later is noticed, also if systemd restarts it, and its last log lines are shown.
    Compared crash_after_three_seconds;
    /// After a library, a script or systemd itself was replaced, every service that still runs the old one
    /// is restarted, whatever its start limit; what cannot be restarted is named.
    Compared replaced_library;
}

/// The screen from the restart on.
fn restarts(screen: &str) -> Result<String> {
    Ok(screen.split_once("Restarting services\n").context("no restart")?.1.to_owned())
}

fn disabled_services(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    world.machine.sh(
        "systemctl --quiet disable dahdi; systemctl --quiet disable --now xivo-agid; systemctl --quiet mask --now xivo-ctid",
    )?;
    let mark = Mark::set(&world.machine)?;
    let transcript = world.upgrade(&["--yes"]).exits(0)?;
    let state = SystemState::of(&world.machine, &SERVICES)?;
    for (name, service) in &state.services {
        let off = ["xivo-agid", "xivo-ctid"].contains(&name.as_str());
        ensure!(service.state == if off { "inactive" } else { "active" }, "{name}: {service:?}");
        ensure!(off || service.version == "1.2.2", "{name}: {service:?}");
    }
    let happened = Events::since(&mark, &world.machine, &SERVICES)?;
    ensure!(!happened.starts.iter().any(|name| ["xivo-agid", "xivo-ctid"].contains(&name.as_str())), "{happened}");
    // The reported outage of a service is not shorter than the one in the journal.
    let seen = happened.outages["postgresql"].context("postgresql is down")?;
    let reported =
        world.machine.sh("sed -n 's/.* postgresql is up after \\([0-9]*\\) ms$/\\1/p' /var/log/xivo-upgrade.log")?;
    let reported = Duration::from_millis(reported.trim().parse()?);
    ensure!(reported + Duration::from_millis(1) >= seen, "{reported:?}, {seen:?}");
    ensure!(reported < seen + Duration::from_secs(5), "{reported:?}, {seen:?}");
    let settings = world.machine.sh("systemctl is-enabled xivo-agid xivo-ctid dahdi || true")?;
    ensure!(settings == "disabled\nmasked\ndisabled\n", "{settings}");
    restarts(&transcript.screen)
}

fn crash_after_three_seconds(debian: Debian) -> Result<String> {
    let mut world = upgradable(debian)?;
    keep_failed_upgrades(&world)?;
    world.machine.sh(&format!("sed -i 's/^settle = .*/settle = \"5s\"/' {PRODUCT}"))?;
    // It ends half a second after its last line: journald cannot tell to which start a line of an ended process belongs.
    let crashing = "[Service]\nType=simple\nExecStart=\nExecStart=/bin/sh -c \
                    'echo up; sleep 2.5; echo no database; sleep 0.5; exit 7'\n";
    let setting = "/etc/systemd/system/xivo-agid.service.d/crashing.conf";
    world.machine.write(setting, crashing.as_bytes(), 0o644)?;
    let crashed = world.upgrade(&["--yes"]).exits(5)?;

    // systemd restarts it at once, so that a check shows a running service.
    let hidden = format!("{crashing}Restart=always\nRestartSec=0\n[Unit]\nStartLimitIntervalSec=0\n");
    world.machine.write(setting, hidden.as_bytes(), 0o644)?;
    world.machine.sh("systemctl daemon-reload")?;
    world.publish([&Package::new("xivo-sounds", "1.2.3")])?;
    let restarted = world.upgrade(&["--yes"]).exits(5)?;

    // A service that stays up causes no warning.
    world
        .machine
        .sh(&format!("sed -i 's/; exit 7//; s/sleep 2.5/sleep infinity/' {setting}; systemctl daemon-reload"))?;
    world.publish([&Package::new("xivo-sounds", "1.2.4")])?;
    world.upgrade(&["--yes"]).exits(0)?;
    Ok(format!("{}\n{}", restarts(&crashed.screen)?, restarts(&restarted.screen)?))
}

/// A service of another product that its package does not restart. Its program is `exec`, with one more environment variable.
fn unit(exec: &str, variable: &str) -> String {
    format!(
        "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=1\n[Service]\nEnvironment={variable}\nExecStart={exec}\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

/// A package with four services beside the product's: `ssh` maps libexpat, as dbus does; `recorder` is a script of the package, and so
/// is `keeper`, whose unit has only its main process ended; `bystander` is none of that. A newer version of it replaces that library, those scripts and systemd's program on disk with new
/// files, as dpkg does, and asks for a reboot.
fn neighbours(version: &str) -> Package {
    let package = Package::new("neighbours", version)
        .file("/usr/libexec/recorder", format!("#!/usr/bin/perl\n# {version}\nsleep 1000 while 1;\n"), 0o755)
        .file("/usr/lib/systemd/system/recorder.service", unit("/usr/libexec/recorder", "A=a"), 0o644)
        .file("/usr/libexec/keeper", format!("#!/usr/bin/perl\n# {version}\nfork;\nsleep 1000 while 1;\n"), 0o755)
        .file("/usr/lib/systemd/system/keeper.service", unit("/usr/libexec/keeper", "A=a"), 0o644)
        .file("/usr/lib/systemd/system/keeper.service.d/main.conf", "[Service]\nKillMode=process\n", 0o644)
        .file("/usr/lib/systemd/system/ssh.service", unit("/bin/sleep infinity", "LD_PRELOAD=libexpat.so.1"), 0o644)
        .file("/usr/lib/systemd/system/bystander.service", unit("/bin/sleep infinity", "A=a"), 0o644);
    let postinst = r#"#!/bin/sh
set -e
if [ -z "$2" ]; then
    systemctl daemon-reload
    systemctl --quiet enable --now ssh recorder keeper bystander
    exit
fi
for file in /usr/lib/*/libexpat.so.1 /usr/lib/systemd/systemd; do
    file=$(readlink -f $file)
    cp -a $file $file.dpkg-new
    mv $file.dpkg-new $file
done
touch /run/reboot-required
echo neighbours >>/run/reboot-required.pkgs
"#;
    package.script("postinst", postinst)
}

fn replaced_library(debian: Debian) -> Result<String> {
    let mut world = product_machine::at_release(debian, "1.2.1", &product_machine::upgrader()?)?;
    world.publish([&neighbours("1")])?;
    world.install(&["neighbours"])?;
    // The start limit works, and is reached.
    world.machine.sh("! systemctl restart ssh 2>/dev/null; systemctl reset-failed ssh; systemctl start ssh")?;
    let others = ["ssh", "recorder", "keeper", "bystander", "dbus"];
    let (mark, before) = (Mark::set(&world.machine)?, SystemState::of(&world.machine, &others)?);
    world.publish([&neighbours("2")])?;
    let transcript = world.upgrade(&["--yes"]).exits(0)?;
    let after = SystemState::of(&world.machine, &others)?;
    for (name, service) in &after.services {
        let restarted = service.started > before.services[name].started;
        ensure!(restarted == ["ssh", "recorder", "keeper"].contains(&name.as_str()), "{name}: {service:?}");
        ensure!(service.state == "active", "{name}: {service:?}");
    }
    let happened = Events::since(&mark, &world.machine, &others)?;
    ensure!(happened.starts.len() == 3, "each once: {happened}");
    world.machine.sh("! grep -q deleted /proc/1/maps")?;
    restarts(&transcript.screen)
}
