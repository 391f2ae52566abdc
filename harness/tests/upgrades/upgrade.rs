//! Upgrades that succeed, and upgrades that fail while packages change.

use anyhow::{Context as _, Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::{self, OLD_UPGRADER, self_updating, upgradable, upgradable_from_old_version};
use harness::machines::world::World;
use harness::observe::inventory::SystemState;
use harness::observe::timeline::{Events, Mark};
use harness::packages::package::Package;
use harness::packages::release::Release;
use harness::packages::service::add_service;
use harness::packages::shipped::definition::PRODUCT;
use harness::packages::shipped::{SERVICES, VERSION};

use crate::rollback::{is_at, keep_failed_upgrades};
use crate::scenario::scenarios;

scenarios! {
    /// One command and one answer upgrade a machine from 1.2.1 to 1.2.2: first the upgrader itself, then
    /// packages, hooks and services in order, and each service really runs its new version.
    Compared upgrade;
    /// The upgrader passes its arguments on when it has replaced itself: --yes still asks nothing.
    Checked arguments_survive_the_self_update;
    /// The displayed version is the package's version, in any version scheme and any locale.
    Compared versions_are_opaque;
    /// After the upgrader was killed while packages change, the next start completes them, and its policy-rc.d no longer blocks services.
    Checked killed_while_packages_change;
    /// A policy-rc.d of the admin is obeyed during the upgrade and unchanged after it.
    Checked own_policy;
    /// An upgrade that leaves a held product package behind is not reported as complete.
    Compared held_product;
    /// An admin who holds the upgrader's package can still upgrade, and the screen says which version of it runs.
    Checked held_upgrader;
    /// With `restart = "stop-then-start"` all services stop in reverse order before the first
    /// one starts, and a service counts as up only when it is ready.
    Compared stop_then_start;
    /// When a package cannot be configured, no post-upgrade hook runs, and the screen says what to do.
    Compared failing_maintainer_script;
}

fn upgrade(debian: Debian) -> Result<String> {
    let world = self_updating(debian)?;
    let mark = Mark::set(&world.machine)?;
    let transcript = world.upgrade(&[]).answer("[Y/n] ", "y\n").run()?;

    let happened = Events::since(&mark, &world.machine, &SERVICES)?;
    is_at(&world, "1.2.2")?;
    // The old second program cannot upgrade anything: the new one did it.
    let after = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(after.packages["xivo-upgrade"] == VERSION, "{transcript}");
    ensure!(after.services.values().all(|service| service.state == "active"), "{after:?}");
    Ok(format!("{transcript}\n{happened}"))
}

fn arguments_survive_the_self_update(debian: Debian) -> Result<()> {
    let world = self_updating(debian)?;
    let transcript = world.upgrade(&["--download-only", "--verbose"]).run()?;
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.packages["xivo-upgrade"] == VERSION, "the upgrader did not update itself: {transcript}");
    ensure!(state.packages["xivo"] == "1.2.1", "--download-only upgraded: {transcript}");
    ensure!(transcript.exit == 0 && transcript.screen.contains("    apt-get: "), "--verbose was lost: {transcript}");

    let transcript = world.upgrade(&["--yes"]).run()?;
    ensure!(transcript.exit == 0 && !transcript.screen.contains("[Y/n]"), "{transcript}");
    ensure!(SystemState::of(&world.machine, &SERVICES)?.packages["xivo"] == "1.2.2");
    let log = world.machine.sh("cat /var/log/xivo-upgrade.log")?;
    ensure!(log.contains(&format!("self-update: xivo-upgrade {OLD_UPGRADER} -> {VERSION}")), "{log}");
    Ok(())
}

fn versions_are_opaque(debian: Debian) -> Result<String> {
    let mut world = product_machine::at_release(debian, "1.2.1", &product_machine::upgrader()?)?;
    let mut shown = String::new();
    for version in ["12.04", "2023.1~rc1", "2023.1-rc2+b1", "1:2.0"] {
        world.publish([&Package::new("xivo", version).control("Depends", "asterisk")])?;
        // Without LC_ALL apt on this machine speaks French.
        let french = world.machine.command(&["apt-cache", "policy", "xivo"]).env("LANG", "fr_FR.UTF-8").run()?;
        ensure!(french.screen.contains("Installé"), "{french}");
        let transcript = world.upgrade(&["--yes"]).env("LANG", "fr_FR.UTF-8").exits(0)?;
        ensure!(SystemState::of(&world.machine, &SERVICES)?.packages["xivo"] == version, "{transcript}");
        shown.extend(
            transcript
                .screen
                .lines()
                .filter(|line| line.contains("version:") || line.contains("is upgraded from"))
                .map(|line| format!("{line}\n")),
        );
    }
    Ok(shown)
}

/// A machine at 1.2.1, for which 1.2.2 is published with one more command at the beginning of dahdi's postinst.
fn upgradable_with_postinst(debian: Debian, command: &str) -> Result<World> {
    let mut world = product_machine::at_release(debian, "1.2.1", &product_machine::upgrader()?)?;
    let mut release = Release::named("1.2.2")?;
    let postinst = release.package_mut("dahdi")?.scripts.get_mut("postinst").context("dahdi has no postinst")?;
    *postinst = postinst.replacen("set -e\n", &format!("set -e\n{command}\n"), 1);
    world.publish(&release.packages)?;
    Ok(world)
}

fn killed_while_packages_change(debian: Debian) -> Result<()> {
    let kill = "if mkdir /root/killed 2>/dev/null; then kill -KILL $(cat /run/xivo-upgrade.lock); fi";
    let world = upgradable_with_postinst(debian, kill)?;
    let mark = Mark::set(&world.machine)?;
    let transcript = world.upgrade(&["--yes"]).run()?;
    ensure!(transcript.exit == 5 && transcript.screen.contains("interrupted"), "it was not killed: {transcript}");
    // dpkg continues until it has to write to the closed pipe.
    world.machine.sh("while pgrep -x 'apt-get|dpkg' >/dev/null; do sleep 0.05; done")?;
    let before = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(before.services["postgresql"].version != "1.2.2", "nothing was left to do: {before:?}");
    // What is left of the run does not block services.
    world.machine.sh("deb-systemd-invoke restart postgresql.service")?;
    let restarted = SystemState::of(&world.machine, &["postgresql"])?;
    ensure!(
        restarted.services["postgresql"].started > before.services["postgresql"].started,
        "the restart was blocked"
    );

    let fetching = world.upgrade(&["--download-only"]).run()?;
    ensure!(fetching.exit == 1 && fetching.screen.contains("completes it or rolls it back"), "{fetching}");
    let again = world.upgrade(&["--yes"]).exits(0)?;
    ensure!(again.screen.contains("Finishing what dpkg was interrupted in\n"), "{again}");
    is_at(&world, "1.2.2")?;
    let happened = Events::since(&mark, &world.machine, &SERVICES)?;
    ensure!(happened.hooks.iter().any(|hook| hook.starts_with("post-upgrade ")), "{happened}");
    Ok(())
}

fn own_policy(debian: Debian) -> Result<()> {
    let mut world = upgradable(debian)?;
    // It logs its arguments, and allows everything.
    let own = b"#!/bin/sh\necho \"$*\" >>/root/asked\n";
    world.machine.write("/usr/sbin/policy-rc.d", own, 0o755)?;
    let mut other = Package::new("xivo-monitor", "1.0");
    add_service(&mut other);
    world.publish([&other])?;
    world.install(&["xivo-monitor"])?;
    // PostgreSQL's scripts name the clusters of one version, and some scripts call invoke-rc.d.
    let preinst =
        "#!/bin/sh\ndeb-systemd-invoke stop 'postgresql@15-*'\ninvoke-rc.d --quiet asterisk restart\nexit 0\n";
    other = Package::new("xivo-monitor", "1.1").script("preinst", preinst);
    add_service(&mut other);
    world.publish([&other])?;
    let cluster = b"[Service]\nExecStart=/bin/sleep infinity\n";
    world.machine.write("/etc/systemd/system/postgresql@.service", cluster, 0o644)?;
    world.machine.sh("systemctl daemon-reload; systemctl start postgresql@15-main")?;
    let running = || world.machine.sh("systemctl show --property=MainPID,ActiveState postgresql@15-main");
    let before = running()?;
    ensure!(before.contains("=active"), "there is no cluster: {before}");
    world.machine.sh(": >/root/asked")?;
    let mark = Mark::set(&world.machine)?;
    world.upgrade(&["--yes"]).exits(0)?;
    let services: Vec<&str> = SERVICES.into_iter().chain(["xivo-monitor"]).collect();
    let happened = Events::since(&mark, &world.machine, &services)?;
    ensure!(happened.starts.len() == services.len(), "each service is started once: {:?}", happened.starts);
    ensure!(happened.starts[0] == "xivo-monitor", "a service of another product is left to its package");
    ensure!(running()? == before, "a service's instance was stopped in the middle");
    let asked = world.machine.sh("cat /root/asked")?;
    ensure!(asked == "xivo-monitor.service restart\n", "the admin's policy was asked: {asked}");
    ensure!(world.machine.sh("cat /usr/sbin/policy-rc.d")?.as_bytes() == own, "the admin's policy-rc.d changed");
    Ok(())
}

fn held_product(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    world.machine.sh("apt-mark hold xivo >/dev/null")?;
    let first = world.upgrade(&["--yes"]).run()?;
    let second = world.upgrade(&["--yes"]).run()?;
    ensure!(first.exit == 6 && second.exit == 6, "{first}\n{second}");
    ensure!(SystemState::of(&world.machine, &SERVICES)?.packages["xivo"] == "1.2.1", "{first}");
    let (_, end) = first.screen.split_once("nginx                    OK\n").context("no restart")?;
    Ok(format!("…{end}\n{second}"))
}

fn held_upgrader(debian: Debian) -> Result<()> {
    let world = upgradable_from_old_version(debian)?;
    world.machine.sh("apt-mark hold xivo-upgrade >/dev/null")?;
    let transcript = world.upgrade(&["--yes"]).run()?;
    ensure!(transcript.screen.contains("is available but held: going on with 0.0.9\n"), "{transcript}");
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(transcript.exit == 6 && state.packages["xivo"] == "1.2.2", "{transcript}");
    ensure!(state.packages["xivo-upgrade"] == OLD_UPGRADER, "{transcript}");
    Ok(())
}

fn stop_then_start(debian: Debian) -> Result<String> {
    let mut world = upgradable(debian)?;
    // Asterisk is ready at the second check.
    world.machine.sh(&format!(
        "sed -i 's/\"rolling\"/\"stop-then-start\"/' {PRODUCT}
         printf '[services.ready]\\nasterisk = {{ command = [\"/root/ready\"], timeout = \"30s\" }}\\n' >>{PRODUCT}"
    ))?;
    let ready = b"#!/bin/sh\nset -e\necho asked >>/root/asked\ntest $(wc -l </root/asked) -ge 2\n";
    world.machine.write("/root/ready", ready, 0o755)?;
    let mark = Mark::set(&world.machine)?;
    world.upgrade(&["--yes"]).exits(0)?;
    let happened = Events::since(&mark, &world.machine, &SERVICES)?;
    let reversed: Vec<&str> = SERVICES.into_iter().rev().collect();
    ensure!(happened.stops == reversed && happened.starts == SERVICES, "{happened}");
    ensure!(world.machine.sh("cat /root/asked")? == "asked\nasked\n", "the upgrade did not wait for asterisk");

    // A service that is active and never ready is not up.
    keep_failed_upgrades(&world)?;
    world.machine.sh(&format!("sed -i 's/\"30s\"/\"1s\"/; s#/root/ready#/bin/false#' {PRODUCT}"))?;
    world.publish([&Package::new("xivo-sounds", "1.2.3")])?;
    let transcript = world.upgrade(&["--yes"]).exits(5)?;
    let (_, end) = transcript.screen.split_once("Restarting services\n").context("no restart")?;
    Ok(end.to_owned())
}

fn failing_maintainer_script(debian: Debian) -> Result<String> {
    let fail = "test -e /root/kernel-module || { echo 'no kernel module' >&2; exit 1; }";
    let world = upgradable_with_postinst(debian, fail)?;
    keep_failed_upgrades(&world)?;
    let mark = Mark::set(&world.machine)?;
    let transcript = world.upgrade(&["--yes"]).exits(5)?;
    let happened = Events::since(&mark, &world.machine, &SERVICES)?;
    ensure!(happened.hooks.iter().all(|hook| hook.starts_with("pre-upgrade ")), "{happened}");
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.unfinished == ["dahdi half-configured", "xivo unpacked"], "{:?}", state.unfinished);
    // After the repair the next run completes packages, hooks and restarts.
    world.machine.sh("touch /root/kernel-module")?;
    let again = world.upgrade(&["--yes"]).exits(0)?;
    is_at(&world, "1.2.2")?;
    let happened = Events::since(&mark, &world.machine, &SERVICES)?;
    ensure!(happened.hooks.iter().any(|hook| hook.starts_with("post-upgrade ")), "{happened}");
    let (_, end) = transcript.screen.split_once("Upgrading packages").context("no packages")?;
    Ok(format!("Upgrading packages{end}\n{again}"))
}
