//! Power cuts on real filesystems: a chosen part of `make power`. What an ended step wrote is on the disk.

use std::io::{Write as _, stderr};

use harness::faults::power;
use harness::machines::disk::{self, Filesystem};
use libtest_mimic::{Arguments, Trial};

fn main() {
    let impossible = disk::is_possible().err();
    if let Some(reason) = &impossible {
        let _ = writeln!(stderr(), "not run on this host, which cannot make disks: {reason:#}");
    }
    let trials = Filesystem::ALL.map(|filesystem| {
        let test = move || power::check(filesystem).map_err(|error| format!("{error:?}").into());
        Trial::test(format!("power_is_cut_on_{filesystem}"), test).with_ignored_flag(impossible.is_some())
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}
