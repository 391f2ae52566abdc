//! An upgrade that is cut short completes, or never happened: one test for some points of each kind. `make crash` runs all.

use harness::crash::{CHOSEN, check};
use libtest_mimic::{Arguments, Trial};

fn main() {
    let trial =
        |name: &'static str| Trial::test(name, move || check(name).map_err(|error| format!("{error:?}").into()));
    libtest_mimic::run(&Arguments::from_args(), CHOSEN.into_iter().map(trial).collect()).exit();
}
