//! Power cuts on real filesystems: a chosen part of `make power`. What an ended step wrote is on the disk.

use std::io::{Write as _, stderr};

use harness::faults::power;
use harness::machines::disk::Filesystem;
use harness::machines::lab;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let impossible = lab::is_possible().err();
    if let Some(reason) = &impossible {
        let _ = writeln!(stderr(), "not run on this host, which cannot make disks: {reason:#}");
    }
    let trial = |name: String, check: fn(Filesystem) -> anyhow::Result<()>, filesystem| {
        let test = move || check(filesystem).map_err(|error| format!("{error:?}").into());
        Trial::test(name, test).with_ignored_flag(impossible.is_some())
    };
    let mut trials = Filesystem::ALL
        .map(|one| trial(format!("power_is_cut_on_{one}"), power::check, one))
        .into_iter()
        .collect::<Vec<_>>();
    trials.push(trial(
        "an_upgrade_that_has_ended_needs_only_what_was_flushed".to_owned(),
        power::check_flushed,
        Filesystem::Ext4,
    ));
    trials.push(trial(
        "after_the_fourth_power_cut_in_packages_the_upgrade_is_rolled_back".to_owned(),
        power::check_repeated,
        Filesystem::Ext4,
    ));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
