//! Upgraders of other products than XiVO.

use anyhow::{Context as _, Result, ensure};
use harness::machines::image::Debian;
use harness::machines::machine::Storage;
use harness::machines::product_machine::{self, HOOK_COUNT, HOOK_MARKS, at_release_on, old_upgrader, upgrader_of};
use harness::observe::inventory::SystemState;
use harness::observe::timeline::{Events, Mark};
use harness::packages::release::Release;
use harness::packages::shipped::{ACME, VERSION, XIVO};

use crate::scenario::scenarios;

scenarios! {
    /// A vendor of another product ships a product.toml and hooks and no code: the same programs upgrade it under its name.
    Compared other_product;
    /// Upgraders of two products work on one machine, and neither touches the other's files.
    Checked two_products;
}

/// The services of the other product, in the order of its product.toml.
const SERVICES: [&str; 3] = ["acme-store", "acme-core", "acme-portal"];

fn other_product(debian: Debian) -> Result<String> {
    let mut world = at_release_on(Storage::wanted()?, &ACME, debian, "2025.4", &old_upgrader(&ACME)?)?;
    let upgrader = upgrader_of(&ACME)?;
    world.publish(Release::of(&ACME, "2025.10")?.packages.iter().chain([&upgrader]))?;
    let mark = Mark::set(&world.machine)?;
    let transcript = world.machine.command(&["acme-upgrade"]).answer("[Y/n] ", "y\n").exits(0)?;

    let happened = Events::since(&mark, &world.machine, &SERVICES)?;
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.unfinished.is_empty() && state.packages["acme"] == "2025.10", "{state:?}");
    ensure!(state.packages["acme-upgrade"] == VERSION, "{state:?}");
    ensure!(state.services.values().all(|service| service.version == "2025.10"), "{state:?}");
    let reversed: Vec<&str> = SERVICES.into_iter().rev().collect();
    ensure!(happened.stops == reversed && happened.starts == SERVICES, "{:?}, {:?}", happened.stops, happened.starts);
    ensure!(happened.hooks.iter().any(|hook| hook.contains(" 50-licence ")), "the vendor's own hook did not run");

    let log = world.machine.sh("cat /var/log/acme-upgrade.log")?;
    ensure!(log.contains("started with arguments"), "the log lacks the start: {log}");
    for text in [&transcript.to_string(), &log] {
        let said = text.lines().find(|line| line.to_lowercase().contains("xivo"));
        ensure!(said.is_none(), "another product is named: {said:?}");
    }
    // Every machine of the harness gets its package source in files of these two names.
    let paths = world.machine.sh("{ find / -xdev -iname '*xivo*'; find /run /tmp -iname '*xivo*'; } \
         | sed '/^.etc.apt.sources.list.d.xivo.sources$/d; /^.usr.share.keyrings.xivo.pgp$/d'")?;
    ensure!(paths.is_empty(), "another product has files here:\n{paths}");
    Ok(format!("{transcript}\n{happened}"))
}

fn two_products(debian: Debian) -> Result<()> {
    let ours = product_machine::upgrader()?;
    let mut world = product_machine::upgradable_with(debian, &ours, &ours)?;
    // The files of the one product, before and after the other is installed.
    let files = "find / -xdev -path '*xivo*' -not -path '/proc/*' -not -path '/var/lib/dpkg/*' \
                 -printf '%p %y %m %s %i %C@\\n' | LC_ALL=C sort";
    let before = world.machine.sh(files)?;
    ensure!(before.contains("/usr/bin/real-xivo-upgrade "), "this check finds nothing");
    let acme = upgrader_of(&ACME)?;
    world.publish(Release::of(&ACME, "2025.4")?.packages.iter().chain([&acme]))?;
    world.install(&["acme", "acme-upgrade"])?;
    world.publish(&Release::of(&ACME, "2025.10")?.packages)?;
    // The packages of the one product are held, so that the other upgrades only its own.
    let others: Vec<&str> = harness::packages::shipped::SERVICES.into_iter().chain([XIVO.name]).collect();
    world.machine.sh(&format!("apt-mark hold {} >/dev/null; rm {HOOK_MARKS} 2>/dev/null || :", others.join(" ")))?;
    let mark = Mark::set(&world.machine)?;
    let services: Vec<&str> = SERVICES.into_iter().chain(harness::packages::shipped::SERVICES).collect();
    // Held packages need attention.
    let transcript = world.machine.command(&["acme-upgrade", "--yes"]).exits(6)?;
    let happened = Events::since(&mark, &world.machine, &services)?;
    ensure!(happened.starts == SERVICES, "{:?}", happened.starts);
    ensure!(happened.hooks.len() == HOOK_COUNT + 1, "only its own hooks ran: {:?}", happened.hooks);
    ensure!(world.machine.sh(files)? == before, "files of the other product changed: {transcript}");

    // Its removal does not change the first one.
    world.machine.sh("apt-get -qq -y purge acme-upgrade >/dev/null; test ! -e /etc/logrotate.d/acme-upgrade")?;
    ensure!(world.machine.sh(files)? == before, "files of the other product changed");
    world.machine.sh("apt-mark unhold $(apt-mark showhold) >/dev/null")?;
    world.upgrade(&["--yes"]).exits(0)?;
    let state = SystemState::of(&world.machine, &services)?;
    ensure!(state.packages["xivo"] == "1.2.2" && state.packages["acme"] == "2025.10", "{state:?}");
    let acme = state.services.get("acme-core").context("it is gone")?;
    ensure!(acme.state == "active", "{acme:?}");
    Ok(())
}
