//! Tests of rollbacks on machines, upgrades and filesystems of every kind.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::interruption;
use super::machine::{Machine, assert_same, has_links, is_root, upgrade};
use crate::rollback::{Aspect, Damage, PathChange, PathDifference, measure, open, save};

#[test]
fn a_machine_is_what_it_was_to_the_last_bit() {
    let machine = Machine::full();
    let before = machine.listing();
    let store = machine.save();
    assert_eq!(store.check().unwrap(), []);
    assert_eq!(store.compare().unwrap(), []);
    assert_same(&before, &machine.listing());
    upgrade(&machine);
    assert!(store.compare().unwrap().len() > 50, "the upgrade was not seen");
    let restored = machine.rolls_back_to(&store, &before);
    assert_eq!((restored.left, restored.edited_in_place), (Vec::new(), Vec::new()));
    let again = machine.rolls_back_to(&store, &before);
    assert_eq!((again.changed, again.removed), (0, 0), "there was nothing left to do");
}

#[test]
fn a_rollback_that_is_killed_at_any_moment_leaves_programs_that_start_and_is_finished_by_the_next() {
    let mut seen = BTreeSet::new();
    for changes in 0.. {
        let machine = Machine::full();
        let before = machine.listing();
        let store = machine.save();
        upgrade(&machine);
        let done = interruption::after(changes, || store.restore(&mut |_| ())).is_ok();
        // Old programs are content with new libraries, not the other way round.
        let is_new = |path: &str| fs::read(machine.at(path)).unwrap() == b"new";
        let (program, c, loader) =
            (is_new("usr/bin/tool"), is_new("usr/lib/libc.so.6"), is_new("usr/lib/ld-linux.so.2"));
        assert!(!program || (c && loader), "a new program with an old C library");
        assert!(machine.at("usr/lib/liba.so.1").exists(), "a link that leads nowhere");
        seen.insert((program, c));
        let store = open(&machine.paths).unwrap().unwrap();
        machine.rolls_back_to(&store, &before);
        if done {
            assert!(changes > 100, "it cannot be done in {changes} changes");
            break;
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn files_edited_in_place_are_named_and_all_others_are_restored() {
    let machine = Machine::full();
    let before = machine.listing();
    let store = machine.save();
    upgrade(&machine);
    File::options().append(true).open(machine.at("usr/lib/log.db")).unwrap().write_all(b" more").unwrap();
    // Written into, and then replaced.
    File::options().append(true).open(machine.at("boot/vmlinuz")).unwrap().write_all(b" more").unwrap();
    machine.replace("boot/vmlinuz", "new");
    if !has_links(&store) {
        // Nothing is shared with what was written into.
        machine.rolls_back_to(&store, &before);
        return;
    }
    let edited = [PathBuf::from("/boot/vmlinuz"), PathBuf::from("/usr/lib/log.db")];
    assert_eq!(store.check().unwrap(), edited.clone().map(Damage::EditedInPlace));
    let restored = store.restore(&mut |_| ()).unwrap();
    assert_eq!(restored.edited_in_place, edited);
    assert_eq!(
        store.compare().unwrap(),
        edited
            .clone()
            .map(|path| PathDifference { path, change: PathChange::Aspects(vec![Aspect::Content, Aspect::Time]) })
    );
    let mut after = machine.listing();
    for path in ["usr/lib/log.db", "boot/vmlinuz"] {
        let text = after.insert(path.into(), before[Path::new(path)].clone()).unwrap();
        assert!(text.contains(&format!("{path} more")), "{text}");
    }
    assert_same(&before, &after);
}

#[test]
fn a_generated_file_that_a_maintainer_script_writes_in_place_is_restored() {
    let machine = Machine::full();
    machine.write("usr/lib/generated.cache", "old");
    let before = machine.listing();
    let store = machine.save();
    upgrade(&machine);
    File::options().append(true).open(machine.at("usr/lib/generated.cache")).unwrap().write_all(b" new").unwrap();
    assert_eq!(store.check().unwrap(), []);
    machine.rolls_back_to(&store, &before);
}

#[test]
fn a_rollback_preserves_data_and_the_admins_files() {
    let machine = Machine::full();
    let store = machine.save();
    upgrade(&machine);
    let data = [
        "var/lib/acme/voicemail/1",
        "var/lib/service/record",
        "opt/vendor/record",
        "usr/local/bin/tool",
        "srv/new/mine",
        "home/mine",
        "var/log/x",
    ];
    for path in data {
        machine.write(path, "data");
    }
    machine.replace("var/lib/service/data", "changed");
    let restored = store.restore(&mut |_| ()).unwrap();
    for path in data {
        assert_eq!(fs::read_to_string(machine.at(path)).unwrap(), "data", "{path}");
    }
    assert_eq!(fs::read_to_string(machine.at("var/lib/service/data")).unwrap(), "changed");
    let left = ["/srv/new", "/var/lib/acme/voicemail", "/var/lib/acme/voicemail/1"];
    assert_eq!(restored.left, left.map(PathBuf::from), "what stays is told");
}

#[test]
fn a_package_that_was_not_upgraded_keeps_a_file_that_a_new_one_diverted() {
    let machine = Machine::full();
    let store = machine.save();
    upgrade(&machine);
    store.restore(&mut |_| ()).unwrap();
    assert_eq!(fs::read_to_string(machine.at("usr/bin/other")).unwrap(), "usr/bin/other");
    assert!(!machine.at("usr/bin/other.new").exists());
}

#[test]
fn separate_filesystems_have_rollback_data_of_their_own() {
    let mut machine = Machine::bare();
    machine.scope.packages.push("tool".into());
    machine.package("tool", &["/usr/bin/tool", "/usr/share/foreign/file"]);
    let mounts = ["usr", "boot", "usr/share/foreign"].map(|path| Mount::tmpfs(&machine.at(path)));
    let Some(mounts) = mounts.into_iter().collect::<Option<Vec<_>>>() else { return };
    for path in ["usr/bin/tool", "usr/lib/unowned", "boot/vmlinuz", "usr/share/foreign/file", "usr/share/foreign/mine"]
    {
        machine.write(path, path);
    }
    let before = machine.listing();
    let store = machine.save();
    assert_same(&before, &machine.listing());
    let stores = ["usr", "boot", "usr/share/foreign"].map(|path| machine.at(path).join(".acme-upgrade-rollback"));
    assert!(stores.iter().all(|store| store.metadata().unwrap().mode() & 0o777 == 0o700), "others could look in");
    let held: Vec<_> = measure(&machine.paths, &machine.scope).unwrap().iter().map(|need| need.held).collect();
    assert_eq!(
        held,
        [8192, 4096, 4096],
        "two lists of dpkg, and the packages' files on the disks of /usr and of the other package"
    );
    for path in ["usr/bin/tool", "boot/vmlinuz", "usr/share/foreign/file"] {
        machine.replace(path, "new");
    }
    machine.remove("usr/lib/unowned");
    machine.write("usr/new/file", "new");
    machine.rolls_back_to(&store, &before);
    machine.write("usr/share/foreign/added", "on a disk of another package");
    store.restore(&mut |_| ()).unwrap();
    machine.remove("usr/share/foreign/added");
    machine.rolls_back_to(&store, &before);
    crate::rollback::discard(&machine.paths).unwrap();
    assert!(!stores.iter().any(|store| store.exists()), "rollback data is left");
    assert_same(&before, &machine.listing());
    drop(mounts);
}

#[test]
fn what_cannot_be_linked_is_copied_and_what_cannot_be_replaced_is_named() {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let mut machine = Machine::bare();
    machine.scope.packages.push("tool".into());
    machine.package("tool", &["/usr/bin/tool", "/usr/bin/mounted", "/usr/bin/wanted"]);
    machine.write("usr/bin/tool", "old");
    machine.write("usr/bin/wanted", "old");
    let file = File::open(machine.at("usr/bin/tool")).unwrap();
    let immutable = |on| {
        ioctl_setflags(
            &file,
            ioctl_getflags(&file)?.difference(IFlags::IMMUTABLE) | if on { IFlags::IMMUTABLE } else { IFlags::empty() },
        )
    };
    if immutable(true).is_err() {
        return skipped("nothing can be made immutable here");
    }
    let before = machine.listing();
    let saved = save(&machine.paths, &machine.scope, &mut |_| ());
    immutable(false).unwrap();
    let saved = saved.unwrap();
    let store = open(&machine.paths).unwrap().unwrap();
    if has_links(&store) {
        assert_eq!(saved.linked, 3, "one program and two lists of dpkg's: {saved:?}");
    }
    machine.replace("usr/bin/tool", "new");
    machine.replace("usr/bin/wanted", "new");
    machine.rolls_back_to(&store, &before);
    // One that is made immutable while the upgrade runs.
    machine.replace("usr/bin/tool", "new");
    machine.replace("usr/bin/wanted", "new");
    let file = File::open(machine.at("usr/bin/tool")).unwrap();
    ioctl_setflags(&file, ioctl_getflags(&file).unwrap() | IFlags::IMMUTABLE).unwrap();
    let restored = store.restore(&mut |_| ());
    ioctl_setflags(&file, ioctl_getflags(&file).unwrap().difference(IFlags::IMMUTABLE)).unwrap();
    assert_eq!(restored.unwrap().left, [PathBuf::from("/usr/bin/tool")]);
    assert_eq!(fs::read_to_string(machine.at("usr/bin/wanted")).unwrap(), "old", "one path keeps no other");
    machine.rolls_back_to(&store, &before);
}

#[test]
fn nothing_of_a_file_system_that_is_mounted_meanwhile_is_removed() {
    let machine = Machine::full();
    let store = machine.save();
    upgrade(&machine);
    for path in ["var/lib/new/mount", "var/lib/mounted", "usr/share/new/mount"] {
        fs::create_dir_all(machine.at(path)).unwrap();
    }
    let mounts =
        ["var/lib/new/mount", "var/lib/mounted", "usr/share/new/mount"].map(|path| Mount::tmpfs(&machine.at(path)));
    if mounts.iter().any(Option::is_none) {
        return;
    }
    let files = ["var/lib/new/mount/data", "var/lib/mounted/data", "usr/share/new/mount/data"];
    for path in files {
        machine.write(path, "data");
    }
    let restored = store.restore(&mut |_| ()).unwrap();
    for path in files {
        assert!(machine.at(path).exists(), "{path}");
    }
    assert_eq!(restored.left, ["/var/lib/new", "/usr/share/new"].map(PathBuf::from));
}

#[test]
fn without_exchanging_renames_what_changed_its_type_comes_back_too() {
    let machine = Machine::full();
    let before = machine.listing();
    let store = machine.save();
    upgrade(&machine);
    // A directory on which something is mounted cannot be exchanged; one that was emptied can be removed.
    machine.remove("usr/bin/link");
    fs::create_dir(machine.at("usr/bin/link")).unwrap();
    let Some(mount) = Mount::tmpfs(&machine.at("usr/bin/link")) else { return };
    let restored = store.restore(&mut |_| ()).unwrap();
    assert_eq!(restored.left, [PathBuf::from("/usr/bin/link")]);
    drop(mount);
    machine.rolls_back_to(&store, &before);
}

#[test]
fn a_read_only_file_system_is_refused_before_anything_is_changed() {
    let mut machine = Machine::bare();
    machine.scope.packages.push("tool".into());
    machine.package("tool", &["/usr/bin/tool"]);
    let Some(mount) = Mount::tmpfs(&machine.at("usr")) else { return };
    machine.write("usr/bin/tool", "tool");
    mount.read_only();
    let error = save(&machine.paths, &machine.scope, &mut |_| ()).unwrap_err();
    let text = crate::exit::describe(&error).replace(&machine.root.path().display().to_string(), "");
    assert!(
        text.starts_with(
            "error: the rollback data cannot be saved: /usr/bin/tool: /usr/.acme-upgrade-rollback: Read-only"
        ),
        "{text}"
    );
    assert!(
        text.ends_with("What to do: Remount the filesystem so that it can be written to, and start again."),
        "{text}"
    );
    assert!(open(&machine.paths).unwrap().is_none() && !machine.paths.rollback().exists(), "incomplete rollback data");
}

/// A filesystem that is mounted for a test.
pub(super) struct Mount(PathBuf);

impl Mount {
    /// `None`, and a line that says so, where mounting is not allowed.
    pub(super) fn tmpfs(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        if run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs"], path) {
            return Some(Self(path.to_owned()));
        }
        skipped("nothing can be mounted here");
        None
    }

    fn read_only(&self) {
        assert!(run("mount", &["-o", "remount,ro"], &self.0));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &["-l"], &self.0);
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) -> bool {
    crate::system::command::Program::new(program).args(arguments).arg(path).succeeds().unwrap()
}

fn skipped(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {why}").unwrap();
}

/// What can be at a path of a generated machine.
#[derive(Debug, Clone)]
enum Thing {
    Nothing,
    File(u8, u32),
    Link(usize),
    HardLink(usize),
    Directory(u32),
}

const PLACES: [&str; 10] =
    ["usr/a", "usr/a/b", "usr/a/b/c", "usr/a/d", "usr/e", "etc/a", "etc/a/b", "etc/a/b/c", "etc/d", "boot/a"];

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        2 => Just(Thing::Nothing),
        4 => (0_u8..3, prop::sample::select(vec![0o644_u32, 0o4755, 0o600])).prop_map(|(text, mode)| Thing::File(text, mode)),
        2 => (0..PLACES.len()).prop_map(Thing::Link),
        2 => (0..PLACES.len()).prop_map(Thing::HardLink),
        4 => prop::sample::select(vec![0o755_u32, 0o2770]).prop_map(Thing::Directory),
    ]
}

/// Puts things in their places, in the place of others, where there is a directory.
fn put(machine: &Machine, things: &[Thing]) {
    for (place, thing) in PLACES.iter().zip(things) {
        let path = machine.at(place);
        let parent = path.parent().unwrap();
        if !parent.is_dir() || parent.canonicalize().unwrap() != *parent {
            continue;
        }
        let stays = matches!(thing, Thing::Directory(_)) && path.is_dir() && !path.is_symlink();
        if !stays && path.symlink_metadata().is_ok() {
            machine.remove(place);
        }
        match thing {
            Thing::Nothing => {}
            Thing::File(text, mode) => {
                fs::write(&path, [*text]).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Thing::Link(to) => symlink(Path::new("/").join(PLACES[*to]), &path).unwrap(),
            Thing::HardLink(to) => {
                let to = machine.at(PLACES[*to]);
                if to.symlink_metadata().is_ok_and(|it| it.is_file()) {
                    fs::hard_link(to, &path).unwrap();
                }
            }
            Thing::Directory(mode) => {
                let _ = fs::create_dir(&path);
                if is_root() {
                    chown(&path, Some(*mode), None).unwrap();
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_rollback_restores_any_machine_after_any_upgrade(
        old in prop::collection::vec(thing(), PLACES.len()),
        new in prop::collection::vec(thing(), PLACES.len()),
        interrupted in 0_u32..60,
    ) {
        let machine = Machine::bare();
        put(&machine, &old);
        let before = machine.listing();
        let store = machine.save();
        put(&machine, &new);
        let _ = interruption::after(interrupted, || store.restore(&mut |_| ()));
        let restored = machine.rolls_back_to(&store, &before);
        prop_assert!(restored.left.is_empty());
    }
}
