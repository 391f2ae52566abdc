//! Tests of rollback data that is damaged, finalized, extended and discarded.

use std::fs;
use std::path::PathBuf;

use super::machine::{Machine, assert_same, upgrade};
use crate::exit::describe;
use crate::rollback::{Aspect, Damage, PathChange, PathDifference, Saved, Store, discard, extend, measure, open, save};

/// Where the content of a path is saved.
fn object(store: &Store, path: &str) -> PathBuf {
    store.object(store.manifest.lines[&PathBuf::from(path)].stored.as_ref().unwrap())
}

#[test]
fn damage_is_found_before_anything_is_changed() {
    type Injection = fn(&Store);
    let damages: [(&str, Injection); 6] = [
        ("/usr/bin/tool is missing", |store| fs::remove_file(object(store, "/usr/bin/tool")).unwrap()),
        ("/etc/tool.conf is missing", |store| fs::remove_file(object(store, "/etc/tool.conf")).unwrap()),
        ("/etc/tool.conf is damaged", |store| fs::write(object(store, "/etc/tool.conf"), "etc/tool.conX").unwrap()),
        ("/etc/gone.conf is damaged", |store| fs::write(object(store, "/etc/gone.conf"), "").unwrap()),
        ("/usr/bin/su is damaged", |store| {
            fs::remove_file(object(store, "/usr/bin/su")).unwrap();
            fs::create_dir(object(store, "/usr/bin/su")).unwrap();
        }),
        ("/etc/gone.conf is missing", |store| {
            fs::remove_dir_all(store.paths.rollback().join("files")).unwrap();
        }),
    ];
    for (expected, inject) in damages {
        let machine = Machine::full();
        let store = machine.save();
        upgrade(&machine);
        let upgraded = machine.listing();
        inject(&store);
        let damages: Vec<String> = store.check().unwrap().iter().map(ToString::to_string).collect();
        assert!(damages.iter().any(|damage| damage == expected), "{expected}: {damages:?}");
        let error = store.restore(&mut |_| ()).unwrap_err();
        assert!(describe(&error).contains("\nWhat to do: A rollback is impossible"), "{}", describe(&error));
        assert_same(&upgraded, &machine.listing());
    }
}

#[test]
fn a_truncated_or_changed_manifest_is_called_damaged() {
    let machine = Machine::full();
    machine.save();
    let path = machine.paths.rollback().join("manifest");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let without = |line: usize| [&lines[..line], &lines[line + 1..], &[""]].concat().join("\n");
    for damaged in [
        String::new(),
        "\n".to_owned(),
        text[..text.len() - 1].to_owned(),
        text[..text.len() / 2].to_owned(),
        without(0),
        without(5),
        without(lines.len() - 1),
        text.replacen("\"mode\":", "\"mode\":1", 1),
        text.replacen("\"path\"", "\"pfad\"", 1),
    ] {
        fs::write(&path, &damaged).unwrap();
        let error = describe(&open(&machine.paths).unwrap_err());
        assert!(error.contains("manifest: the record of the machine before the upgrade is damaged: "), "{error}");
    }
    fs::write(&path, text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
    let error = describe(&open(&machine.paths).unwrap_err());
    assert!(error.contains("has version 2\nWhat to do: Another version of the upgrader wrote it."), "{error}");
}

#[test]
fn unknown_keys_of_a_newer_manifest_are_ignored() {
    let machine = Machine::full();
    let store = machine.save();
    let path = machine.paths.rollback().join("manifest");
    let text = fs::read_to_string(&path).unwrap();
    let text =
        text.replace("{\"path\":", "{\"new\":[1],\"path\":").replacen("{\"version\"", "{\"later\":{},\"version\"", 1);
    let end = text.trim_end().rfind('\n').unwrap() + 1;
    let sum = <sha2::Sha256 as sha2::Digest>::digest(&text[..end]);
    let trailer = format!("{{\"entries\":{},\"sha256\":\"{sum:x}\",\"more\":1}}\n", store.manifest.lines.len());
    fs::write(&path, text[..end].to_owned() + &trailer).unwrap();
    let read = open(&machine.paths).unwrap().unwrap();
    assert_eq!(read.compare().unwrap(), []);
}

#[test]
fn incomplete_rollback_data_is_none() {
    let machine = Machine::full();
    assert!(open(&machine.paths).unwrap().is_none());
    machine.save();
    let manifest = machine.paths.rollback().join("manifest");
    fs::rename(&manifest, manifest.with_extension("new")).unwrap();
    assert!(open(&machine.paths).unwrap().is_none());
    let store = machine.save();
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn discarding_can_be_interrupted_and_the_next_save_removes_the_rest() {
    let machine = Machine::full();
    let before = machine.listing();
    machine.save();
    let own = machine.paths.rollback();
    // Interrupted right after the manifest went.
    fs::remove_file(own.join("manifest")).unwrap();
    assert!(open(&machine.paths).unwrap().is_none());
    let store = machine.save();
    assert_eq!(store.check().unwrap(), []);
    discard(&machine.paths).unwrap();
    discard(&machine.paths).unwrap();
    assert!(!own.exists());
    assert_same(&before, &machine.listing());
}

#[test]
fn changes_since_the_upgrade_are_not_those_of_the_upgrade() {
    let machine = Machine::full();
    let store = machine.save();
    upgrade(&machine);
    assert_eq!(store.since().unwrap(), [], "it is not finalized");
    store.finalize().unwrap();
    assert_eq!(store.since().unwrap(), []);
    machine.replace("etc/new/conf", "mine");
    machine.mode("etc/tool.conf", 0o600);
    machine.remove("etc/other.conf");
    machine.write("var/lib/acme/voicemail", "mine");
    let since = store.since().unwrap();
    let change = |path: &str| since.iter().find(|it| it.path.as_os_str() == path).map(|it| it.change.clone());
    assert_eq!(change("/etc/new/conf"), Some(PathChange::Aspects(vec![Aspect::Content, Aspect::Time])));
    assert_eq!(change("/etc/tool.conf"), Some(PathChange::Aspects(vec![Aspect::Mode])));
    assert_eq!(change("/etc/other.conf"), Some(PathChange::Removed));
    assert_eq!(change("/var/lib/acme/voicemail"), Some(PathChange::Added));
    let directories = ["/etc", "/etc/new", "/var/lib/acme"];
    assert_eq!(since.len(), 4 + directories.iter().filter(|path| change(path).is_some()).count(), "{since:?}");
}

#[test]
fn the_space_for_rollback_data_is_measured_before() {
    let machine = Machine::full();
    let needs = measure(&machine.paths, &machine.scope).unwrap();
    let saved = save(&machine.paths, &machine.scope, &mut |_| ()).unwrap();
    let [need] = &needs[..] else { panic!("{needs:?}") };
    let shared = saved.linked + saved.reflinked;
    assert!(need.bytes > saved.bytes && need.inodes >= saved.copied, "{need:?} {saved:?}");
    assert!(need.held >= shared * 2048 && saved.copied >= 15, "{need:?} {saved:?}");
}

#[test]
fn only_root_can_read_copies() {
    use std::os::unix::fs::MetadataExt as _;
    let machine = Machine::full();
    let store = machine.save();
    assert_eq!(machine.paths.rollback().metadata().unwrap().mode() & 0o777, 0o700);
    assert_eq!(object(&store, "/etc/tool.conf").metadata().unwrap().mode() & 0o777, 0o600);
}

#[test]
fn progress_goes_up_to_a_hundred() {
    let machine = Machine::full();
    let mut percents = Vec::new();
    save(&machine.paths, &machine.scope, &mut |percent| percents.push(percent)).unwrap();
    assert!(percents.is_sorted() && percents.last() == Some(&100), "{percents:?}");
    upgrade(&machine);
    percents.clear();
    open(&machine.paths).unwrap().unwrap().restore(&mut |percent| percents.push(percent)).unwrap();
    assert!(percents.is_sorted() && percents.last() == Some(&100), "{percents:?}");
}

#[test]
fn extended_rollback_data_restores_all_packages() {
    let mut machine = Machine::full();
    machine.package("late", &["/usr/share/late/data", "/etc/late.conf"]);
    machine.write("usr/share/late/data", "old");
    machine.write("etc/late.conf", "old");
    let before = machine.listing();
    machine.save();
    upgrade(&machine);
    // The next run has another plan.
    machine.scope.packages.push("late".into());
    let more = extend(&machine.paths, &machine.scope, &mut |_| ()).unwrap();
    // The conffile was kept with all of /etc, the directory with all that there are.
    assert_eq!((more.paths, more.linked), (1, 1), "{more:?}");
    assert_eq!(
        extend(&machine.paths, &machine.scope, &mut |_| ()).unwrap(),
        Saved::default(),
        "they are there already"
    );
    machine.replace("usr/share/late/data", "new");
    machine.replace("etc/late.conf", "new");
    let store = open(&machine.paths).unwrap().unwrap();
    assert_eq!(store.check().unwrap(), []);
    machine.rolls_back_to(&store, &before);
}

#[test]
fn a_rollback_preserves_files_that_the_admin_made_since_the_upgrade() {
    let machine = Machine::full();
    let store = machine.save();
    upgrade(&machine);
    store.finalize().unwrap();
    machine.write("etc/made-since.conf", "mine");
    let restored = store.restore(&mut |_| ()).unwrap();
    assert!(restored.left.contains(&PathBuf::from("/etc/made-since.conf")), "{:?}", restored.left);
    assert!(machine.at("etc/made-since.conf").exists(), "the admin has lost a file");
}

#[test]
fn data_of_a_new_program_survives_a_later_rollback_but_not_that_of_a_failed_upgrade() {
    for is_finalized in [false, true] {
        let machine = Machine::full();
        let store = machine.save();
        upgrade(&machine);
        machine.write("var/lib/brand-new/data", "calls");
        if is_finalized {
            store.finalize().unwrap();
        }
        store.restore(&mut |_| ()).unwrap();
        assert_eq!(machine.at("var/lib/brand-new/data").exists(), is_finalized, "finalized: {is_finalized}");
    }
}

#[test]
fn a_difference_is_said_in_words() {
    let said = |change| PathDifference { path: "/etc/a".into(), change }.to_string();
    assert_eq!(said(PathChange::Added), "/etc/a: new");
    assert_eq!(said(PathChange::Aspects(vec![Aspect::Content, Aspect::Mode])), "/etc/a: other content, mode");
    assert_eq!(Damage::Missing("/usr/a".into()).to_string(), "/usr/a is missing");
}
