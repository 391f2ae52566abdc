//! Runs that must change nothing on the machine.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use harness::machines::image::Debian;
use harness::machines::machine::Command;
use harness::machines::product_machine::{self, HOOK_MARKS, upgradable, upgradable_from_old_version};
use harness::machines::world::World;
use harness::observe::inventory::{SystemState, fingerprint};
use harness::packages::package::Package;
use harness::packages::repository_fault::{Affected, RepositoryFault, ServerFault};
use harness::packages::shipped::SERVICES;
use harness::packages::shipped::definition::PRODUCT;

use crate::scenario::scenarios;

scenarios! {
    /// Any answer but yes, the end of the input and a missing terminal leave the machine unchanged.
    Compared declined;
    /// A machine that is up to date is reported as such and not changed.
    Compared nothing_to_do;
    /// --download-only downloads all packages and changes nothing, and the next upgrade downloads none.
    Compared download_only;
    /// --dry-run shows the plan and changes nothing, not even the upgrader.
    Compared dry_run;
    /// A package source that cannot be read ends the run before anything is changed, and is named.
    Compared source_not_found;
    /// A user who is not root is told how to run the upgrader.
    Compared not_root;
    /// A failing pre-upgrade hook ends the run before packages change; the hooks after it do not run.
    Compared failing_pre_upgrade_hook;
    /// An upgrade that would remove the product is refused.
    Compared protected_package;
    /// Two runs never work on a machine at the same time.
    Compared another_run;
    /// A wrong product.toml or hook directory is reported in one line, and nothing is changed.
    Compared bad_input;
}

/// What a run that changes nothing must not change: packages, files, and the start times of services.
pub(crate) fn snapshot(world: &World) -> Result<(SystemState, String)> {
    Ok((SystemState::of(&world.machine, &SERVICES)?, fingerprint(&world.machine)?))
}

/// Runs the upgrader, and fails unless it ends with this exit code and changes nothing on the machine.
pub(crate) fn unchanged(world: &World, exit: i64, upgrader: Command<'_>) -> Result<String> {
    let before = snapshot(world)?;
    let transcript = upgrader.exits(exit)?;
    ensure!(snapshot(world)? == before, "the machine changed: {transcript}");
    Ok(world.redacted(&transcript.to_string()))
}

fn declined(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let before = snapshot(&world)?;
    let mut shown = String::new();
    for (who, answer) in
        [("the admin says no", "n\n"), ("the admin types Ctrl-D", "\u{4}"), ("the admin says maybe", "maybe\n")]
    {
        let transcript = world.upgrade(&[]).answer("[Y/n] ", answer).exits(3)?;
        let (_, end) = transcript.screen.split_at(transcript.screen.find("Would you").unwrap_or(0));
        writeln!(shown, "{who}:\n{end}")?;
    }
    let transcript = world.upgrade(&[]).exits(3)?;
    writeln!(shown, "no terminal:\n{transcript}")?;
    ensure!(snapshot(&world)? == before, "the machine changed");
    Ok(shown)
}

fn nothing_to_do(debian: Debian) -> Result<String> {
    let world = product_machine::at_release(debian, "1.2.1", &product_machine::upgrader()?)?;
    unchanged(&world, 0, world.upgrade(&[]))
}

fn download_only(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let shown = unchanged(&world, 0, world.upgrade(&["-d"]))?;
    let fetched = world.machine.sh("ls /var/cache/apt/archives/*1.2.2*.deb | wc -l")?;
    ensure!(fetched.trim() == "10", "{fetched} packages are in the cache");
    world.inject(RepositoryFault::new(ServerFault::Error(404), Affected::Packages))?;
    let transcript = world.upgrade(&["--yes"]).run()?;
    ensure!(transcript.exit == 0, "the packages were fetched again: {transcript}");
    Ok(shown)
}

fn dry_run(debian: Debian) -> Result<String> {
    let world = upgradable_from_old_version(debian)?;
    let shown = unchanged(&world, 0, world.upgrade(&["--dry-run"]))?;
    // The size of the upgrader's own package differs from build to build.
    let (before, size) = shown.split_once("Download: ").context("no download size")?;
    let (_, after) = size.split_once(" more\n").context("the upgrader is in it")?;
    Ok(format!("{before}Download: ... more\n{after}"))
}

fn source_not_found(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    world.machine.sh(
        "sed 's/^Suites:.*/Suites: gone/' /etc/apt/sources.list.d/xivo.sources >/etc/apt/sources.list.d/gone.sources",
    )?;
    unchanged(&world, 1, world.upgrade(&["--yes"]))
}

fn not_root(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    unchanged(&world, 1, world.upgrade(&["--yes"]).user("nobody"))
}

fn failing_pre_upgrade_hook(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let failing = b"#!/bin/sh\necho 'There are 3 calls under way.'\nexit 1\n";
    world.machine.write("/usr/share/xivo-upgrade/pre-upgrade.d/15-calls", failing, 0o755)?;
    let shown = unchanged(&world, 1, world.upgrade(&["--yes"]))?;
    let marks = world.machine.sh(&format!("cat {HOOK_MARKS}"))?;
    ensure!(marks == "pre-upgrade 10-first (1.2.1 -> 1.2.2)\n", "these hooks ran:\n{marks}");
    Ok(shown)
}

fn protected_package(debian: Debian) -> Result<String> {
    let mut world = upgradable(debian)?;
    let nginx = Package::new("nginx", "1.2.3").control("Conflicts", "asterisk").control("Replaces", "asterisk");
    world.publish([&nginx.control("Provides", "asterisk (= 1.2.3)")])?;
    unchanged(&world, 1, world.upgrade(&["--yes"]))
}

fn another_run(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    // As a run makes it; one that others can open is not a run's.
    world.machine.sh("install --mode=600 /dev/null /run/xivo-upgrade.lock")?;
    unchanged(&world, 7, world.machine.command(&["flock", "/run/xivo-upgrade.lock", "xivo-upgrade", "--yes"]))
}

fn bad_input(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let mut shown = String::new();
    let product = PRODUCT;
    let hooks = "/usr/share/xivo-upgrade/post-upgrade.d";
    for (what, breakage) in [
        ("an unknown key", format!("sed -i 's/^restart/restrat/' {product}")),
        ("no service list", format!("sed -i '/^order/d' {product}")),
        ("no product.toml", format!("rm {product}")),
        ("a file in place of a hook directory", format!("mv {hooks} {hooks}.away; touch {hooks}")),
    ] {
        world.machine.sh(&format!("cp -a {product} /root/product.toml; {breakage}"))?;
        let transcript = unchanged(&world, 1, world.upgrade(&["--yes"]))?;
        writeln!(shown, "{what}:\n{transcript}")?;
        world.machine.sh(&format!(
            "cp -a /root/product.toml {product}; if [ -d {hooks}.away ]; then rm {hooks}; mv {hooks}.away {hooks}; fi"
        ))?;
    }
    let transcript = unchanged(&world, 2, world.upgrade(&["--yes", "--frobnicate"]))?;
    writeln!(shown, "an unknown option:\n{transcript}")?;
    Ok(shown)
}
