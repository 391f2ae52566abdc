//! Problems that the preflight checks find.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::{self, upgradable};
use harness::machines::world::World;
use harness::observe::inventory::SystemState;
use harness::packages::package::Package;
use harness::packages::repository_fault::ServerFault;
use harness::packages::shipped::SERVICES;

use crate::detached::while_running;
use crate::nothing_changed::unchanged;
use crate::scenario::scenarios;

scenarios! {
    /// Preflight reports all problems at once, each with its remedy; with all remedies applied the upgrade succeeds.
    Compared all_preflight_findings;
    /// The upgrader names the process that holds the dpkg lock and waits for it with a countdown; after the timeout nothing is changed.
    Compared dpkg_lock_held;
    /// When package sources seem expired or not yet valid, the screen names a wrong clock as the likely cause.
    Compared wrong_clock;
    /// A wrong setting is reported in one line with file, line and key; nothing is changed, and the remedy works.
    Compared broken_settings;
    /// What another user can change, or what dpkg would read without end, is refused before anything is changed, by name and with a remedy.
    Compared hostile_files;
}

const HOOKS: &str = "/etc/xivo-upgrade/pre-upgrade.d";

/// Runs a remedy, which has to be on the screen.
fn apply(world: &World, screen: &str, command: &str) -> Result<()> {
    ensure!(screen.contains(&format!("`{command}`")), "the screen lacks `{command}`:\n{screen}");
    world.machine.sh(command)?;
    Ok(())
}

/// The upgrade succeeds, and leaves nothing behind.
fn succeeds(world: &World) -> Result<String> {
    let transcript = world.upgrade(&["--yes"]).exits(0)?;
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.unfinished.is_empty() && state.packages["xivo"] == "1.2.2", "{transcript}");
    world.machine.sh("test ! -e /usr/sbin/policy-rc.d")?;
    Ok(transcript.to_string())
}

fn all_preflight_findings(debian: Debian) -> Result<String> {
    let mut world = product_machine::at_release(debian, "1.2.1", &product_machine::upgrader()?)?;
    world.publish([&Package::new("xivo-legacy", "1.0").file("/usr/share/xivo-legacy/a", "a", 0o644)])?;
    world.install(&["xivo-legacy"])?;
    world.publish(&harness::packages::release::Release::named("1.2.2")?.packages)?;
    let machine = &world.machine;
    for hook in ["10-writable", "20-of-a-user"] {
        machine.write(&format!("{HOOKS}/{hook}"), b"#!/bin/sh\n", 0o755)?;
    }
    machine.write(&format!("{HOOKS}/30-python"), b"#!/usr/bin/python2 -u\n", 0o755)?;
    machine.write("/etc/systemd/system/monit.service", b"[Service]\nExecStart=sleep infinity\n", 0o644)?;
    // Two releases of Debian, and an unsigned source.
    for (name, origin) in [("bookworm", "Debian"), ("trixie", "Debian"), ("unsigned", "Other")] {
        let option = if name == "unsigned" { "allow-insecure=yes" } else { "trusted=yes" };
        machine.sh(&format!(
            "mkdir -p /srv/{name}; cd /srv/{name}; printf 'Package: xivo-stub\\nVersion: 1\\nArchitecture: all\\nFilename: ./a.deb\\nSize: 1\\nSHA256: %064d\\nDescription: a\\n\\n' 0 >Packages
             {{ printf 'Origin: {origin}\\nCodename: {name}\\nDate: %s\\nSHA256:\\n' \"$(LC_ALL=C date -Ru)\"
               echo \" $(sha256sum <Packages | cut -d' ' -f1) $(stat -c %s Packages) Packages\"; }} >Release
             echo 'deb [{option}] file:/srv/{name} ./' >/etc/apt/sources.list.d/{name}.list"
        ))?;
    }
    machine.sh(&format!(
        "chmod 777 {HOOKS}/10-writable; chown nobody {HOOKS}/20-of-a-user
         sed -i '/^Package: xivo-legacy$/,/^$/s/^Status: .*/Status: install reinstreq half-installed/' /var/lib/dpkg/status
         mount -t tmpfs -o size=1m tmpfs /var/cache/apt/archives
         # Full except for the log itself, whatever files exist there already.
         mount -t tmpfs -o size=64m,nr_inodes=100 tmpfs /var/log; touch /var/log/xivo-upgrade.log
         seq 100 | while read -r number && touch /var/log/$number 2>/dev/null; do :; done
         mkdir -p /var/lib/xivo-upgrade
         mount -t tmpfs -o ro,mode=0700 tmpfs /var/lib/xivo-upgrade
         systemctl daemon-reload; systemctl start monit
         systemctl mask --quiet xivo-agid; systemctl stop xivo-agid"
    ))?;
    let mut shown = unchanged(&world, 1, world.upgrade(&["--yes"]))?;
    world.machine.sh("test ! -e /usr/sbin/policy-rc.d")?;

    // The admin applies the remedies. Notes need none.
    world.machine.sh("umount /var/log")?;
    for command in [
        format!("chown root: {HOOKS}/20-of-a-user"),
        format!("chmod go-w {HOOKS}/10-writable"),
        "apt-get install --reinstall xivo-legacy".to_owned(),
        "systemctl stop monit".to_owned(),
    ] {
        apply(&world, &shown, &command)?;
    }
    world.machine.sh(&format!(
        "chmod -x {HOOKS}/30-python; rm /etc/apt/sources.list.d/unsigned.list
         umount /var/cache/apt/archives; mount -o remount,rw /var/lib/xivo-upgrade"
    ))?;
    // The product's own source is missing.
    world.machine.sh("mv /etc/apt/sources.list.d/xivo.sources /root/")?;
    let missing = unchanged(&world, 1, world.upgrade(&["--yes"]))?;
    world.machine.sh("mv /root/xivo.sources /etc/apt/sources.list.d/")?;
    let end = succeeds(&world)?;
    let (_, end) = end.split_once("Restarting services\n").context("no restart")?;
    writeln!(
        shown,
        "\nAll is repaired, but the product's own source is missing:\n{missing}\nWith the source:\n…{end}"
    )?;
    Ok(shown)
}

fn hostile_files(debian: Debian) -> Result<String> {
    const CONFFILE: &str = "/etc/xivo/xivo.conf";
    let world = upgradable(debian)?;
    world.machine.sh("useradd --system phone")?;
    let mut shown = String::new();
    for (what, make, remove) in [
        (
            "A link of another user is in the place of a directory:",
            "mv /etc/xivo /root/saved; ln -s /root/saved /etc/xivo; chown -h phone /etc/xivo".to_owned(),
            "rm /etc/xivo; mv /root/saved /etc/xivo".to_owned(),
        ),
        (
            "A conffile is a link to a device:",
            format!("mv {CONFFILE} /root/; ln -s /dev/zero {CONFFILE}"),
            format!("rm {CONFFILE}"),
        ),
        (
            "A conffile has no end:",
            format!("truncate -s 4T {CONFFILE}"),
            format!("rm {CONFFILE}; mv /root/xivo.conf /etc/xivo/"),
        ),
        (
            "The settings belong to another user:",
            "chown phone /etc/xivo-upgrade/config.toml".to_owned(),
            "chown root: /etc/xivo-upgrade/config.toml".to_owned(),
        ),
        (
            "Others can write to the state:",
            "chmod 1777 /var/lib/xivo-upgrade".to_owned(),
            "chmod go-w /var/lib/xivo-upgrade".to_owned(),
        ),
    ] {
        world.machine.sh(&make)?;
        // What compares a machine would read without end, too.
        writeln!(shown, "{what}\n{}", world.upgrade(&["--yes"]).exits(1)?)?;
        ensure!(world.machine.sh("dpkg-query --show --showformat='${Version}' xivo")? == "1.2.1");
        world.machine.sh(&remove)?;
    }
    let end = succeeds(&world)?;
    let (_, end) = end.split_once("Restarting services\n").context("no restart")?;
    writeln!(shown, "Without all that:\n…{end}")?;
    Ok(shown)
}

/// Lets a process hold the dpkg lock until its unit is stopped; returns its pid.
pub(crate) fn hold_lock(world: &World) -> Result<String> {
    let holder = b"#!/usr/bin/perl\nuse Fcntl;\n$0 = 'unattended-upgr';\nopen my $lock, '>>', '/var/lib/dpkg/lock-frontend' or die;\n\
                   my $whole = pack 's s x4 q q l x4', F_WRLCK, 0, 0, 0, 0;\nfcntl $lock, F_SETLK, $whole or die;\n\
                   open my $ready, '>', '/run/holder.ready'; sleep;\n";
    world.machine.write("/root/holder", holder, 0o755)?;
    world.machine.sh("rm -f /run/holder.ready; systemd-run --quiet --collect --unit=holder /root/holder 2>&1")?;
    world.machine.wait_until("test -e /run/holder.ready")?;
    Ok(world.machine.sh("systemctl show --property=MainPID --value holder")?.trim().to_owned())
}

fn dpkg_lock_held(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let settings = "/etc/xivo-upgrade/config.toml";
    let mut shown = String::new();
    // For too long.
    world.machine.write(settings, b"[time-limits]\nlock = \"3s\"\n", 0o644)?;
    let holder = hold_lock(&world)?;
    let too_long = unchanged(&world, 1, world.upgrade(&["--yes"]))?;
    writeln!(shown, "A process that does not end:\n{too_long}")?;

    // For a while, at a terminal: the countdown is overwritten.
    world.machine.sh(&format!("rm {settings}"))?;
    let waited =
        "until grep -q 'waiting up to 118 s for' /var/log/xivo-upgrade.log; do sleep 0.05; done; systemctl stop holder";
    let mut live = Vec::new();
    let waiting = || world.upgrade(&["--dry-run"]).at_terminal().live(&mut live).run();
    let (dry_run, _) = while_running(waiting, || world.machine.sh(waited))?;
    ensure!(dry_run.exit == 0 && !dry_run.screen.contains("Waiting"), "{dry_run}");
    let live = String::from_utf8_lossy(&live);
    for seconds in [120, 119, 118] {
        let bar = format!("\rWaiting up to {seconds} s for unattended-upgr (pid {holder}) to release the dpkg lock");
        ensure!(live.contains(&bar), "no {bar:?} in {live}");
    }

    // In plain lines, one of many seconds is enough.
    world.machine.sh(": >/var/log/xivo-upgrade.log")?;
    let holder = hold_lock(&world)?;
    let (upgrade, _) = while_running(|| world.upgrade(&["--yes"]).exits(0), || world.machine.sh(waited))?;
    ensure!(SystemState::of(&world.machine, &SERVICES)?.packages["xivo"] == "1.2.2", "{upgrade}");
    world.machine.sh("test ! -e /usr/sbin/policy-rc.d")?;
    let (start, _) = upgrade.screen.split_once("\n\n").context("no plan")?;
    writeln!(shown, "A process that ends after a while:\n{}\n…", start.replace(&holder, "123"))?;
    Ok(shown)
}

fn wrong_clock(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let mut shown = String::new();
    for (what, fault) in
        [("A clock that is behind", ServerFault::NotYetValid), ("A clock that is ahead", ServerFault::Expired)]
    {
        world.inject(fault)?;
        let mut said = Vec::new();
        let screen = unchanged(&world, 1, world.upgrade(&["--yes"]).live(&mut said))?;
        let said = String::from_utf8(said)?;
        let now = world.machine.sh("date -u +%Y-%m-%d")?;
        ensure!(said.contains(&format!("shows {}", now.trim())), "{said}");
        writeln!(shown, "{what}:\n{screen}")?;
    }
    // If the admin has disabled apt's check of dates, it is only a note.
    world.machine.write("/etc/apt/apt.conf.d/90dates", b"Acquire::Check-Date \"false\";\n", 0o644)?;
    world.inject(ServerFault::NotYetValid)?;
    let noted = world.upgrade(&["--dry-run"]).run()?;
    ensure!(noted.exit == 0 && noted.screen.contains("Note: this machine's clock shows"), "{noted}");
    world.machine.sh("rm /etc/apt/apt.conf.d/90dates")?;
    // The clock and the source agree.
    world.clear_fault()?;
    world.machine.sh("rm -r /var/lib/apt/lists/*")?;
    succeeds(&world)?;
    Ok(shown)
}

fn broken_settings(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let mut shown = String::new();
    for (what, settings) in [
        ("an unknown key", "# Mine.\nconffiles = \"keep\"\nconfiles = \"replace\"\n"),
        ("an unknown value", "conffiles = \"ask\"\n"),
        ("a time without a unit", "[time-limits]\nlock = 120\n"),
        ("no TOML", "[time-limits]\nlock 2m\n"),
    ] {
        world.machine.write("/etc/xivo-upgrade/config.toml", settings.as_bytes(), 0o644)?;
        let screen = unchanged(&world, 1, world.upgrade(&["--yes"]))?;
        writeln!(shown, "{what}:\n{screen}")?;
        let (_, line) = screen.split_once("config.toml:").context("no line")?;
        let (line, _) = line.split_once(':').context("no line")?;
        ensure!(screen.contains("put a # in front of it"), "{screen}");
        world.machine.sh(&format!("sed -i '{line}s/^/#/' /etc/xivo-upgrade/config.toml"))?;
        world.upgrade(&["--dry-run"]).exits(0)?;
    }
    succeeds(&world)?;
    Ok(shown)
}
