//! What is followed, opened and refused, and whose it may be.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

/// A directory that only the user of the test can change, although /tmp is everybody's.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<Errno> {
    Errno::from_io_error(&result.expect_err("refused"))
}

#[test]
fn links_are_followed_only_where_nobody_else_could_have_made_them() {
    let top = directory();
    let at = |path: &str| top.path().join(path);
    fs::create_dir_all(at("real/below")).expect("made");
    fs::write(at("real/file"), "content").expect("written");
    fs::create_dir(at("theirs")).expect("made");
    symlink("../real", at("theirs/link")).expect("linked");
    symlink(at("real"), at("link")).expect("linked");
    symlink("real/../link/file", at("to-file")).expect("linked");
    for path in ["link/file", "to-file", "real/below/../file"] {
        assert_eq!(read(&at(path), 7).expect(path), b"content");
        assert_eq!(canonical(&at(path)).expect(path), at("real/file"));
        assert_eq!(changeable(&at(path)).expect(path), None);
    }
    assert_eq!(read_link(&at("link")).expect("a link"), Some(at("real")));
    assert!(Place::of(&at("link/below/new")).is_ok(), "the admin moved a directory to another disk");
    fs::set_permissions(at("theirs"), fs::Permissions::from_mode(0o777)).expect("mode set");
    assert_eq!(errno(read(&at("theirs/link/file"), 7)), Some(Errno::LOOP));
    assert_eq!(errno(Place::of(&at("theirs/link/new"))), Some(Errno::LOOP));
    assert_eq!(errno(canonical(&at("theirs/link/file"))), Some(Errno::LOOP));
    assert_eq!(read_link(&at("theirs/link")).expect("looked at"), None);
    let found = changeable(&at("theirs/link/file")).expect("it is there").expect("others can");
    assert_eq!((found.path, found.mode), (at("theirs"), 0o777));
    symlink("loop", at("loop")).expect("linked");
    assert_eq!(errno(open(&at("loop"))), Some(Errno::LOOP));
}

#[test]
fn a_name_without_a_directory_is_in_the_current_one() {
    // Tests run in the directory of the crate.
    assert!(open(Path::new("Cargo.toml")).is_ok() && exists("src/lib.rs") && exists("src/../Cargo.toml"));
    assert_eq!(canonical(Path::new("src/../Cargo.toml")).expect("there"), Path::new("./Cargo.toml"));
}

#[test]
fn in_a_directory_with_the_sticky_bit_the_own_files_are_safe_and_the_directory_is_not() {
    let top = directory();
    let at = |path: &str| top.path().join(path);
    fs::create_dir_all(at("shared/own")).expect("made");
    fs::set_permissions(at("shared"), fs::Permissions::from_mode(0o1777)).expect("mode set");
    assert_eq!(changeable(&at("shared/own")).expect("it is there"), None);
    let failure = own(&at("shared")).expect_err("others can make files in it").to_string();
    assert!(failure.ends_with("decides what root does, but others can change it (mode 1777)"), "{failure}");
    fs::set_permissions(at("shared/own"), fs::Permissions::from_mode(0o775)).expect("mode set");
    fs::write(at("shared/own/tool"), "").expect("written");
    let failure = trusted(&at("shared/own/tool")).expect_err("others can replace it").to_string();
    let above = at("shared/own").display().to_string();
    assert!(failure.ends_with(&format!("runs as root, but others can change {above} (mode 0775)")), "{failure}");
    assert!(trusted(&at("absent")).is_ok() && trusted(Path::new("diff")).is_ok());
}

#[test]
fn what_is_no_regular_file_is_refused_at_once_and_what_is_too_large_is_not_read() {
    let top = directory();
    let at = |path: &str| top.path().join(path);
    rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("made");
    symlink("/dev/zero", at("zero")).expect("linked");
    fs::create_dir(at("directory")).expect("made");
    for name in ["pipe", "zero", "directory"] {
        assert_eq!(open(&at(name)).expect_err(name).to_string(), "it is not a regular file");
    }
    fs::File::create(at("holes")).and_then(|file| file.set_len(4 << 40)).expect("made");
    assert_eq!(read(&at("holes"), 1000).expect_err("too large").kind(), ErrorKind::FileTooLarge);
}

#[test]
fn a_tree_is_removed_without_what_its_links_lead_to() {
    let top = directory();
    let at = |path: &str| top.path().join(path);
    fs::create_dir_all(at("tree/a")).expect("made");
    fs::create_dir(at("kept")).expect("made");
    fs::write(at("kept/file"), "").expect("written");
    symlink(at("kept"), at("tree/a/link")).expect("linked");
    remove_tree(&at("tree")).expect("removed");
    remove_tree(&at("tree")).expect("it is not there");
    assert!(at("kept/file").exists() && !at("tree").exists());
}

#[test]
fn only_root_can_enter_what_is_the_upgraders_own() {
    let top = directory();
    let path = top.path().join("state/deep");
    make_own(&path).expect("made");
    let mode = || path.metadata().expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(), 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode set");
    make_private(&path).expect("changed");
    assert_eq!(mode(), 0o700);
}
