//! Upgrades of machines. Each scenario is one test for each release of Debian.

mod conffiles;
mod database;
mod detached;
mod disks;
mod hooks;
mod hostile_owner;
mod interrupted;
mod known_failures;
mod machines;
mod nothing_changed;
mod other_product;
mod package;
mod pair;
mod preflight;
mod provd;
mod releases;
mod reports;
mod repository;
mod restarts;
mod rollback;
mod scenario;
mod screens;
mod sync;
mod terminal;
mod upgrade;
mod validated;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let scenarios: Vec<_> = [
        conffiles::SCENARIOS,
        database::SCENARIOS,
        detached::SCENARIOS,
        disks::SCENARIOS,
        hooks::SCENARIOS,
        hostile_owner::SCENARIOS,
        interrupted::SCENARIOS,
        known_failures::SCENARIOS,
        machines::SCENARIOS,
        nothing_changed::SCENARIOS,
        other_product::SCENARIOS,
        package::SCENARIOS,
        pair::SCENARIOS,
        preflight::SCENARIOS,
        provd::SCENARIOS,
        releases::SCENARIOS,
        reports::SCENARIOS,
        repository::SCENARIOS,
        restarts::SCENARIOS,
        rollback::SCENARIOS,
        screens::SCENARIOS,
        sync::SCENARIOS,
        terminal::SCENARIOS,
        upgrade::SCENARIOS,
        validated::SCENARIOS,
    ]
    .concat();
    let mut trials: Vec<Trial> = scenarios.iter().flat_map(scenario::trials).collect();
    let unknown = scenario::ON_ALL.iter().find(|name| !scenarios.iter().any(|scenario| scenario.name == **name));
    assert!(unknown.is_none(), "there is no scenario {unknown:?}");
    let known = scenarios.clone();
    trials.push(Trial::test("known_failures_are_tested", move || known_failures::known_failures_are_tested(&known)));
    trials.push(Trial::test("no_stale_snapshot", move || scenario::no_stale_snapshot(&scenarios)));
    libtest_mimic::run(&arguments, trials).exit();
}
