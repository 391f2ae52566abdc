//! Attacks by an unprivileged account, none of which may succeed: a chosen part of `make attacks`.

use harness::faults::attack::ChosenAttack;
use libtest_mimic::{Arguments, Trial};

fn main() -> anyhow::Result<()> {
    let trial = |(name, attack): (String, ChosenAttack)| {
        Trial::test(name, move || attack.check().map_err(|error| format!("{error:?}").into()))
    };
    libtest_mimic::run(&Arguments::from_args(), ChosenAttack::all()?.into_iter().map(trial).collect()).exit();
}
