//! Faulty repositories.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::{self_updating, upgradable};
use harness::machines::world::World;
use harness::observe::inventory::SystemState;
use harness::packages::repository_fault::{Affected, RepositoryFault, ServerFault};
use harness::packages::shipped::SERVICES;

use crate::nothing_changed::unchanged;
use crate::scenario::scenarios;

scenarios! {
    /// Package lists that cannot be read or verified end the run before anything is changed, with the name of the source.
    Compared failing_package_lists;
    /// Packages that cannot be downloaded or verified end the run before anything is changed, with the name of the source.
    Compared failing_downloads;
    /// When its own package cannot be downloaded, the upgrader says so, changes nothing and does not wait for ever.
    Compared failing_self_update;
    /// A mirror that misses a file for a moment needs no admin; after one that was updated meanwhile, a second start is enough.
    Compared mirror_that_recovers;
}

fn failing_package_lists(debian: Debian) -> Result<String> {
    let indices = |fault| RepositoryFault::new(fault, Affected::Indices);
    failing_repository(
        debian,
        &[
            ("nothing listens", ServerFault::Unreachable.into()),
            ("the server is out of order", indices(ServerFault::Error(503))),
            ("the server stalls", indices(ServerFault::Stall)),
            ("connections end early", indices(ServerFault::Cut(100))),
            ("the lists are not what was signed", indices(ServerFault::WrongHash)),
            ("the lists are too short", indices(ServerFault::Truncated)),
            ("the mirror is in the middle of a sync", ServerFault::HalfSynced.into()),
            ("it is not signed", ServerFault::Unsigned.into()),
            ("it is signed with another key", ServerFault::OtherKey.into()),
            ("the network requires a login", ServerFault::Html.into()),
        ],
    )
}

fn failing_downloads(debian: Debian) -> Result<String> {
    let packages = |fault| RepositoryFault::new(fault, Affected::Packages);
    failing_repository(
        debian,
        &[
            ("they are missing", packages(ServerFault::Error(404))),
            ("the server stalls", packages(ServerFault::Stall)),
            ("connections end early", packages(ServerFault::Cut(100))),
            ("they are not what the list says", packages(ServerFault::WrongHash)),
            ("they are too short", packages(ServerFault::Truncated)),
            ("the network requires a login", packages(ServerFault::Html)),
        ],
    )
}

/// Runs the upgrader with each of these faults on one machine, and returns its screens. Without a fault the upgrade then succeeds.
fn failing_repository(debian: Debian, faults: &[(&str, RepositoryFault)]) -> Result<String> {
    let world = upgradable(debian)?;
    shorten_timeouts(&world)?;
    let mut shown = String::new();
    for (what, fault) in faults {
        world.inject(*fault)?;
        let screen = unchanged(&world, 1, world.upgrade(&["--yes"]))?;
        ensure!(screen.contains("http://repository.test"), "no source is named: {screen}");
        writeln!(shown, "{what}:\n{}", without_hashes(ending(&screen)))?;
        remove_downloads(&world)?;
    }
    world.clear_fault()?;
    upgraded(&world, "1.2.2")?;
    Ok(shown)
}

fn failing_self_update(debian: Debian) -> Result<String> {
    let world = self_updating(debian)?;
    shorten_timeouts(&world)?;
    let mut shown = String::new();
    for (what, fault) in [("it is missing", ServerFault::Error(404)), ("the server stalls", ServerFault::Stall)] {
        world.inject(RepositoryFault::new(fault, Affected::Upgrader))?;
        writeln!(shown, "{what}:\n{}", unchanged(&world, 1, world.upgrade(&["--yes"]))?)?;
    }
    world.clear_fault()?;
    upgraded(&world, "1.2.2")?;
    Ok(shown)
}

fn mirror_that_recovers(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    shorten_timeouts(&world)?;
    // A mirror without by-hash, one that breaks off once, and one whose lists take several times as long as the limit.
    let slow = RepositoryFault::new(ServerFault::Slow(600), Affected::Indices);
    for fault in [ServerFault::ByHashMissing.into(), RepositoryFault::from(ServerFault::Cut(100)).times(1), slow] {
        world.inject(fault)?;
        unchanged(&world, 0, world.upgrade(&["--download-only"]))?;
        remove_downloads(&world)?;
    }
    // One that answers 503 once: apt does not retry.
    world.inject(RepositoryFault::from(ServerFault::Error(503)).times(1))?;
    unchanged(&world, 1, world.upgrade(&["--yes"]))?;
    // The next release is published while this one is downloaded.
    world.inject(ServerFault::IndexChanges)?;
    let screen = unchanged(&world, 1, world.upgrade(&["--yes"]))?;
    upgraded(&world, "1.2.2+1")?;
    Ok(ending(&screen).to_owned())
}

/// A screen from the download on.
fn ending(screen: &str) -> &str {
    screen.find("Downloading packages").map_or(screen, |at| &screen[at..])
}

/// A text without hashes, which differ from run to run.
fn without_hashes(text: &str) -> String {
    let is_hash = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = text.split_inclusive(['/', ' ', '\n']);
    words.map(|word| if word.strip_suffix(' ').is_some_and(is_hash) { "… " } else { word }).collect()
}

/// Sets a shorter timeout than that of apt (30 seconds), and one retry of apt.
fn shorten_timeouts(world: &World) -> Result<()> {
    world.machine.write("/etc/apt/apt.conf.d/90impatient", b"Acquire::Retries \"1\";\n", 0o644)?;
    world.machine.write("/etc/xivo-upgrade/config.toml", b"[time-limits]\nsource = \"5s\"\n", 0o644)
}

/// Removes package lists and downloaded packages.
fn remove_downloads(world: &World) -> Result<()> {
    world.machine.sh("apt-get clean; rm -rf /var/lib/apt/lists/*").map(drop)
}

/// Upgrades to this version.
fn upgraded(world: &World, version: &str) -> Result<()> {
    let transcript = world.upgrade(&["--yes"]).exits(0)?;
    ensure!(SystemState::of(&world.machine, &SERVICES)?.packages["xivo"] == version, "{transcript}");
    Ok(())
}
