//! Upgrades through many releases.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use harness::at_once::both;
use harness::machines::image::Debian;
use harness::machines::product_machine;
use harness::machines::world::World;
use harness::observe::inventory::SystemState;
use harness::observe::timeline::{Events, Mark};
use harness::packages::release::Release;
use harness::packages::shipped::SERVICES;

use crate::database::nothing_to_upgrade;
use crate::scenario::scenarios;

scenarios! {
    /// Packages and units are renamed, packages are dropped and split, a library's soname and a conffile's name change: a machine that takes every release in turn has all of it
    /// done to it, and the admin's edits and services with it. One that goes from the oldest to the newest in one upgrade is the same, to the last file.
    Compared oldest_to_newest;
}

const OLDEST: &str = "1.1";
const NEWEST: &str = "1.2.3";

/// The upgrader's settings.
const SETTINGS: &str = "/etc/xivo-upgrade/config.toml";
/// The conffile that the newest release moves, and where to.
const MOVED: (&str, &str) = ("/etc/xivo/xivo.conf", "/etc/xivo/general.conf");
/// Its content after an edit of the admin.
const EDITED: &str = "# ours\nlanguage = de\n";

fn oldest_to_newest(debian: Debian) -> Result<String> {
    let (walked, jumped) = both(
        || one_after_the_other(debian),
        || oldest(debian).and_then(|mut world| Ok((upgrade_to(&mut world, NEWEST)?, world))),
    );
    let ((at_once, jumped), (walked, in_turn)) = (jumped?, walked?);
    ensure_newest(&jumped)?;
    ensure_newest(&walked)?;
    let (jumped, walked) = (snapshot(&jumped)?, snapshot(&walked)?);
    let only = |one: &BTreeSet<String>, other| one.difference(other).map(String::as_str).collect::<Vec<_>>().join("\n");
    ensure!(
        jumped == walked,
        "after one upgrade, and not after many:\n{}\nafter many, and not after one:\n{}",
        only(&jumped, &walked),
        only(&walked, &jumped)
    );
    Ok(format!("{in_turn}\nAnd all at once:\n{at_once}"))
}

/// A machine at the oldest release, with everything that later releases drop. Its admin has edited a conffile, and keeps the edit.
fn oldest(debian: Debian) -> Result<World> {
    let world = product_machine::at_release(debian, OLDEST, &product_machine::upgrader()?)?;
    world.machine.sh("systemctl is-active --quiet xivo-config && systemctl is-active --quiet xivo-agi")?;
    world.machine.sh("grep -q libxivo.so.0 /proc/$(systemctl show --property=MainPID --value xivo-ctid)/maps")?;
    world.machine.write(MOVED.0, EDITED.as_bytes(), 0o644)?;
    world.machine.write(SETTINGS, b"conffiles = \"keep\"\n", 0o644)?;
    Ok(world)
}

/// A machine that took every release in turn, and what its admin saw.
fn one_after_the_other(debian: Debian) -> Result<(World, String)> {
    let mut world = oldest(debian)?;
    let mut shown = String::new();
    for release in ["1.2.0", "1.2.1", "1.2.2", NEWEST] {
        let upgrade = upgrade_to(&mut world, release)?;
        // The admin reads the package's version of the conffile, and removes it.
        if release == "1.2.2" {
            let other = format!("{}.dpkg-dist", MOVED.0);
            ensure!(upgrade.contains(&format!("Kept your {}; the package's version is {other}", MOVED.0)), "{upgrade}");
            world.machine.sh(&format!("rm {other}"))?;
        }
        shown.push_str(&upgrade);
        shown.push('\n');
    }
    Ok((world, shown))
}

/// Publishes a release and upgrades a machine to it: what the admin saw, and what happened.
fn upgrade_to(world: &mut World, release: &str) -> Result<String> {
    world.publish(&Release::named(release)?.packages)?;
    let mark = Mark::set(&world.machine)?;
    let transcript = world.upgrade(&[]).answer("[Y/n] ", "y\n").exits(0)?;
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.unfinished.is_empty() && state.packages["xivo"] == release, "{state:?}\n{transcript}");
    for (name, service) in &state.services {
        ensure!(service.state == "active" && service.version == release, "{name}: {service:?}\n{transcript}");
    }
    Ok(format!("{transcript}\n{}", Events::since(&mark, &world.machine, &SERVICES)?))
}

/// Checks that a machine has everything of the newest release, and after `apt-get autoremove` nothing of older ones.
fn ensure_newest(world: &World) -> Result<()> {
    let machine = &world.machine;
    let packages = SystemState::of(machine, &SERVICES)?.packages;
    for gone in ["xivo-config", "xivo-sip-legacy"] {
        ensure!(!packages.contains_key(gone), "{gone} is still installed");
    }
    for package in Release::named(NEWEST)?.packages {
        ensure!(packages.get(&package.name) == Some(&package.version), "{} is not {NEWEST}", package.name);
    }
    let units = machine.sh("systemctl show --property=LoadState,ActiveState xivo-config xivo-agi")?;
    let gone = "LoadState=not-found\nActiveState=inactive\n";
    ensure!(units == format!("{gone}\n{gone}"), "{units}");
    let left = machine.sh("find /etc/systemd /var/lib/systemd -name 'xivo-config*' -o -name 'xivo-agi.*'")?;
    ensure!(left.is_empty(), "something is left of old units:\n{left}");
    let enabled = machine.sh("systemctl is-enabled xivo-confgend xivo-agid")?;
    ensure!(enabled == "enabled\nenabled\n", "{enabled}");

    let owners =
        machine.sh("dpkg-query --search /usr/share/asterisk/sounds/hello.txt /usr/share/xivo-sounds/hello.txt")?;
    ensure!(
        owners.lines().count() == 2 && owners.lines().all(|line| line.starts_with("asterisk-sounds: ")),
        "{owners}"
    );
    let general = machine.sh(&format!("test ! -e {}; cat {}", MOVED.0, MOVED.1))?;
    ensure!(general == EDITED, "the admin's edit became:\n{general}");
    // Besides what the admin has edited: dpkg remembers that there was a conffile where nothing is now.
    let verified = machine.sh("dpkg --verify | sed 's/.* //' | sort")?;
    ensure!(verified == format!("{SETTINGS}\n{}\n{}\n", MOVED.1, MOVED.0), "{verified}");

    // Libraries with different sonames live side by side, so the old one stays until the admin has it removed.
    let removed = machine.sh("apt-get --quiet=2 --simulate autoremove")?;
    ensure!(removed == format!("Remv libxivo0 [{OLDEST}]\n"), "{removed}");
    machine.sh("apt-get --quiet=2 --yes autoremove")?;
    let library = machine
        .sh("grep -o '/usr/lib/xivo/.*' /proc/$(systemctl show --property=MainPID --value xivo-ctid)/maps | sort -u")?;
    ensure!(library == "/usr/lib/xivo/libxivo.so.1\n", "{library}");
    nothing_to_upgrade(world)
}

/// The state of a machine, one fact a line: packages, the output of `dpkg --verify`, units, /etc and the paths in /usr. The machine's
/// identity and the address of its repository are left out.
fn snapshot(world: &World) -> Result<BTreeSet<String>> {
    let seen = world.machine.sh("dpkg-query --show --showformat='${db:Status-Abbrev} ${Package} ${Version}\\n'
        apt-mark showmanual
        dpkg --verify || :
        systemctl list-unit-files --no-legend
        find /var/lib/systemd/deb-systemd-helper* -printf '%p %y %l\\n'
        find /etc /usr -printf '%p %y %m %u:%g %l\\n'
        find /etc -type f ! -path /etc/machine-id ! -path /etc/hosts ! -path /etc/apt/sources.list.d/xivo.sources \
            -exec sha256sum {} +")?;
    Some(seen.lines().map(str::to_owned).collect::<BTreeSet<_>>())
        .filter(|lines| lines.len() > 1000)
        .context("the machine said too little")
}
