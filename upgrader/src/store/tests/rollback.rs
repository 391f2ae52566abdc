use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::interruption;
use super::machine::{Machine, upgrade};
use crate::store::{Aspect, Change, Difference, Flaw, open};

#[test]
fn a_machine_is_what_it_was_to_the_last_bit() {
    let machine = Machine::full();
    let before = machine.listing();
    let store = machine.arm();
    assert_eq!(store.check().unwrap(), []);
    assert_eq!(store.compare().unwrap(), [], "arming changes nothing");
    assert_eq!(before, machine.listing(), "arming changes nothing");
    upgrade(&machine);
    assert!(store.compare().unwrap().len() > 50);
    let restored = machine.goes_back(&store, &before);
    assert_eq!((restored.left, restored.edited_in_place), (Vec::new(), Vec::new()));
    let again = machine.goes_back(&store, &before);
    assert_eq!((again.changed, again.removed), (0, 0), "there was nothing left to do");
}

#[test]
fn a_rollback_that_is_killed_at_any_moment_is_finished_by_the_next() {
    for changes in 0.. {
        let machine = Machine::full();
        let before = machine.listing();
        let store = machine.arm();
        upgrade(&machine);
        let done = interruption::after(changes, || store.restore(&mut |_| ())).is_ok();
        let store = open(&machine.paths).unwrap().unwrap();
        machine.goes_back(&store, &before);
        if done {
            assert!(changes > 100, "it cannot be done in {changes} changes");
            break;
        }
    }
}
