//! Another user owns a directory below /etc, and changes what is in it at any moment.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::machine::{Machine, is_root};
use crate::files::Place;
use crate::rollback::manifest::Line;
use crate::rollback::metadata::{Kind, read_metadata};
use crate::rollback::{Store, discard, measure};

/// The user of these tests, when root runs them.
const USER: u32 = 65534;

/// A machine on which the user owns /etc/app.
fn machine() -> Machine {
    let machine = Machine::full();
    machine.write("etc/app/sub/conf", "theirs");
    machine.write("etc/shadow", "secret");
    machine.mode("etc/shadow", 0o600);
    for path in ["etc/app", "etc/app/sub", "etc/app/sub/conf"] {
        give(&machine, path);
    }
    machine
}

/// Gives something to the user, where root runs the test.
fn give(machine: &Machine, path: &str) {
    if is_root() {
        std::os::unix::fs::lchown(machine.at(path), Some(USER), Some(USER)).unwrap();
    }
}

/// Puts a link to another directory in the place of /etc/app/sub.
fn exchange_for_a_link(machine: &Machine, target: &str) {
    fs::rename(machine.at("etc/app/sub"), machine.at("etc/app/hidden")).unwrap();
    symlink(machine.at(target), machine.at("etc/app/sub")).unwrap();
    give(machine, "etc/app/sub");
}

fn line<'a>(store: &'a Store, path: &str) -> &'a Line {
    &store.manifest.lines[Path::new(path)]
}

#[test]
fn nothing_is_made_changed_or_removed_through_a_link_in_the_place_of_a_directory() {
    let machine = machine();
    machine.write("srv/target/kept", "kept");
    let store = machine.save();
    // The content of a file, its attributes, a missing one, a new one: what a rollback does in a directory.
    machine.write("etc/app/sub/new", "new");
    exchange_for_a_link(&machine, "srv/target");
    machine.write("srv/target/conf", "of root");
    machine.write("srv/target/new", "of root");
    store.restore(&mut |_| ()).unwrap();
    assert_eq!(fs::read(machine.at("srv/target/conf")).unwrap(), b"of root");
    assert_eq!(fs::read(machine.at("srv/target/new")).unwrap(), b"of root");
    assert_eq!(fs::metadata(machine.at("srv/target/conf")).unwrap().uid(), rustix::process::geteuid().as_raw());
    let names: Vec<_> = fs::read_dir(machine.at("srv/target")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(fs::read(machine.at("etc/app/sub/conf")).unwrap(), b"theirs", "the directory itself is restored");
}

#[test]
fn the_content_that_is_saved_is_that_of_the_file_whose_owner_is_saved() {
    let machine = machine();
    // As if the link came between looking and reading.
    let path = machine.at("etc/app/sub/conf");
    let seen = read_metadata(&path).unwrap().unwrap();
    let open_seen = || crate::rollback::content::open_seen(&Place::of(&path).unwrap(), &seen);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another").unwrap();
    assert!(open_seen().unwrap().is_none());
    fs::remove_file(&path).unwrap();
    symlink(machine.at("etc/shadow"), &path).unwrap();
    assert!(open_seen().is_err(), "a link is not followed");
    exchange_for_a_link(&machine, "etc");
    let store = machine.save();
    assert!(!store.manifest.lines.contains_key(Path::new("/etc/app/sub/shadow")));
    assert!(matches!(line(&store, "/etc/app/sub").entry.kind, Kind::Symlink { .. }));
}

#[test]
fn a_link_of_another_user_does_not_say_where_a_package_has_its_files() {
    if !is_root() {
        return;
    }
    let mut machine = machine();
    machine.package("app", &["/etc/app/sub/conf", "/etc/app/sub/precious"]);
    machine.scope.packages.push("app".into());
    let store = machine.save();
    machine.write("srv/target/precious", "of root");
    exchange_for_a_link(&machine, "srv/target");
    store.restore(&mut |_| ()).unwrap();
    assert_eq!(fs::read(machine.at("srv/target/precious")).unwrap(), b"of root");
}

#[test]
fn a_pipe_a_device_or_a_huge_hole_stops_nothing() {
    let machine = machine();
    mknodat(CWD, machine.at("etc/app/sub/pipe"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let holes = File::create(machine.at("etc/app/sub/holes")).unwrap();
    holes.set_len(4 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"data", 1 << 40).unwrap();
    let before = machine.listing();
    let needed = measure(&machine.paths, &machine.scope).unwrap().remove(0);
    assert!(needed.bytes < 10 << 20, "{needed:?}");
    let store = machine.save();
    assert_eq!(store.check().unwrap(), []);
    fs::remove_dir_all(machine.at("etc/app/sub")).unwrap();
    store.restore(&mut |_| ()).unwrap();
    let back = fs::metadata(machine.at("etc/app/sub/holes")).unwrap();
    assert_eq!(back.len(), 4 << 40);
    assert!(back.blocks() < 1000, "{} blocks", back.blocks());
    let mut data = [0; 4];
    let file = File::open(machine.at("etc/app/sub/holes")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut data, 1 << 40).unwrap();
    assert_eq!(&data, b"data");
    super::machine::assert_same(&before, &machine.listing());
}

#[test]
fn a_file_that_another_user_may_have_open_does_not_become_roots() {
    if !is_root() {
        return;
    }
    let machine = machine();
    machine.write("etc/app/sub/tool", "program");
    machine.mode("etc/app/sub/tool", 0o4755);
    let store = machine.save();
    // The same content in a file of the user, who keeps it open for writing.
    fs::remove_file(machine.at("etc/app/sub/tool")).unwrap();
    machine.write("etc/app/sub/tool", "program");
    give(&machine, "etc/app/sub/tool");
    let open = File::options().write(true).open(machine.at("etc/app/sub/tool")).unwrap();
    store.restore(&mut |_| ()).unwrap();
    let now = fs::metadata(machine.at("etc/app/sub/tool")).unwrap();
    assert_eq!((now.uid(), now.mode() & 0o7777), (0, 0o4755));
    assert_ne!(now.ino(), open.metadata().unwrap().ino());
}

#[test]
fn rollback_data_lies_only_where_nobody_else_can_exchange_it() {
    let machine = machine();
    let Some(_mount) = super::rollback::Mount::tmpfs(&machine.at("opt")) else { return };
    machine.write("opt/vendor/bin", "program");
    machine.write("opt/vendor/unowned", "program");
    if is_root() {
        chown(machine.at("opt"), Some(USER), Some(USER)).unwrap();
    } else {
        fs::set_permissions(machine.at("opt"), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let store = machine.save();
    assert_eq!(store.manifest.header.places.len(), 1, "{:?}", store.manifest.header.places);
    discard(&machine.paths).unwrap();
}
