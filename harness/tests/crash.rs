//! An upgrade with an injected fault completes or is rolled back: one test for some points of each kind. `make crash` runs all.
//!
//! With packages from Debian's mirror, which not every machine reaches, the same on the way to the next Debian: `make next-debian`.

use std::io::Write as _;

use harness::faults::crash::next_debian::{self, NextDebianRollback};
use harness::faults::crash::{CHOSEN, CHOSEN_ON_HOST, check};
use harness::machines::machine::Storage;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let result = |result: anyhow::Result<()>| result.map_err(|error| Failed::from(format!("{error:?}")));
    let point = |name: &'static str| Trial::test(name, move || result(check(name, Storage::Layers)));
    let on_host =
        |name: &'static str| Trial::test(format!("on_host:{name}"), move || result(check(name, Storage::Host)));
    let complete = Trial::test("next_debian::complete", move || result(next_debian::complete()));
    let rolled_back = |name: &str, disk| {
        Trial::test(format!("next_debian::{name}"), move || {
            let NextDebianRollback { shown, saving, rollback } =
                next_debian::rolled_back(disk).map_err(|error| format!("{error:?}"))?;
            writeln!(std::io::stdout(), "{shown}\nsaving rollback data took {saving:?}, the rollback {rollback:?}")?;
            Ok(())
        })
    };
    let rolled_back = [rolled_back("rolled_back", Storage::Layers), rolled_back("rolled_back_on_host", Storage::Host)];
    let real = [complete].into_iter().chain(rolled_back).map(|trial| trial.with_ignored_flag(true));
    let trials = CHOSEN.into_iter().map(point).chain(CHOSEN_ON_HOST.into_iter().map(on_host)).chain(real).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
