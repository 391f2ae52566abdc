//! Disks that fail in the middle of an upgrade or of a rollback: a chosen part of `make failing-disks`.

use std::io::{Write as _, stderr};

use harness::faults::failing_disk::Chosen;
use harness::machines::lab;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let impossible = lab::is_possible().err();
    if let Some(reason) = &impossible {
        let _ = writeln!(stderr(), "not run on this host, which cannot make disks: {reason:#}");
    }
    let trial = |(name, chosen): (&str, Chosen)| {
        let test = move || chosen.check().map_err(|error| format!("{error:?}").into());
        Trial::test(name, test).with_ignored_flag(impossible.is_some())
    };
    let trials = Chosen::ALL.map(trial).into_iter().collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
