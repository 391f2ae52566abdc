//! Dumps the database before it is migrated, and removes old dumps.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use super::owner::OwnerRole;
use super::restore;
use crate::config::product::Database;
use crate::exit::{Explain as _, Failure};
use crate::files::{self, Place};
use crate::model::size::size as shown;
use crate::model::time;
use crate::paths::Paths;
use crate::system::remove_file;

/// What stays free on the disk beside a dump, in bytes: others write there too.
const RESERVE: u64 = 32 << 20;

/// What the names of unfinished dumps end with.
const UNFINISHED: &str = ".part";

/// Makes sure that a dump of a database of this size (in bytes) fits on the disk. A dump is compressed and has no indices: half of the
/// database is more than almost all of them need, and one that does not fit after all leaves nothing behind and the database as it
/// was.
pub(super) fn check_space(paths: &Paths, size: u64) -> Result<()> {
    let directory = paths.dumps();
    let mut there: &Path = &directory;
    while let (false, Some(parent)) = (files::exists(there), there.parent()) {
        there = parent;
    }
    let disk = rustix::fs::statvfs(there).with_context(|| there.display().to_string())?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = (size / 2).saturating_add(RESERVE);
    if free >= needed {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{}: {} are free, but saving the database before it is migrated may take {}",
        directory.display(),
        shown(free),
        shown(needed)
    ))
    .remedy(format!("Make space on the disk of {}, then start again.", there.display()))
    .into())
}

/// Saves a database of this size (in bytes) as `NAME-DATABASE-TIME.dump`, and its privileges and settings as `.sql` beside it, for root
/// only. Each has that name once it is whole and on the disk. Dumps of the same database that are older than `keep_days` days are removed. Returns the path and the size in
/// bytes.
pub(super) fn write(
    paths: &Paths,
    database: &Database,
    role: &str,
    size: u64,
    keep_days: u32,
) -> Result<(PathBuf, u64)> {
    let directory = paths.dumps();
    prepare(&directory).explain(|| failure(&directory))?;
    check_space(paths, size)?;
    let now = Timestamp::now();
    let stem = format!("{}-{}-", paths.name(), database.name);
    let path = directory.join(format!("{stem}{}.dump", time::stamp(now)));
    let unfinished = directory.join(format!("{stem}{}.dump{UNFINISHED}", time::stamp(now)));
    let properties = path.with_extension("sql");
    let write = || {
        // Before there is a role to which the owner could grant something.
        let text = restore::properties(database)?;
        let session = OwnerRole::create(database, role)?;
        let bytes = write_file(&unfinished, &path, |file| session.dump(file))?;
        write_file(&unfinished, &properties, |mut file| Ok(file.write_all(text.as_bytes())?))?;
        Ok(bytes)
    };
    let written = write();
    if written.is_err() {
        // What is left of it is removed by the next dump as well.
        for file in [&unfinished, &path, &properties] {
            let _ = remove_file(file);
        }
    }
    let bytes = written.explain(|| failure(&directory))?;
    remove_older(&directory, &stem, now, keep_days);
    Ok((path, bytes))
}

fn failure(directory: &Path) -> Failure {
    Failure::new("the database could not be saved before its migration, and was not migrated").remedy(format!(
        "Fix what is named (the dump goes to {}), then start again: it continues with the migrations.",
        directory.display()
    ))
}

/// Makes the directory, for root only, and removes what killed runs have left in it.
fn prepare(directory: &Path) -> Result<()> {
    let make = || -> io::Result<()> {
        files::make_own(directory)?;
        files::make_private(directory)?;
        for name in files::names_in(directory)? {
            if name.as_encoded_bytes().ends_with(UNFINISHED.as_bytes()) {
                remove_file(&directory.join(name))?;
            }
        }
        Ok(())
    };
    make().with_context(|| directory.display().to_string())
}

/// Writes a file under one name, then gives it the other. Gives its size.
fn write_file(unfinished: &Path, path: &Path, dump: impl FnOnce(File) -> Result<()>) -> Result<u64> {
    let file = Place::of(unfinished).and_then(|place| place.create());
    let file = file.with_context(|| unfinished.display().to_string())?;
    dump(file.try_clone()?)?;
    file.sync_all()?;
    let bytes = file.metadata()?.len();
    files::rename(unfinished, path)?;
    Ok(bytes)
}

/// Removes what is older, but never the newest. What cannot be removed does no harm but to the space, which is checked.
fn remove_older(directory: &Path, stem: &str, now: Timestamp, keep_days: u32) {
    let age = SignedDuration::from_hours(24 * i64::from(keep_days));
    let Ok(oldest) = now.checked_sub(age) else { return };
    let names = files::names_in(directory).unwrap_or_default().into_iter();
    let names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    for name in too_old(&names, stem, &time::stamp(oldest)) {
        let dump = directory.join(name);
        let _ = remove_file(&dump.with_extension("sql"));
        let _ = remove_file(&dump);
    }
}

/// The names of dumps from before a time, without the newest.
fn too_old<'a>(names: &'a [String], stem: &str, oldest: &str) -> Vec<&'a str> {
    let mut dumps: Vec<(&str, &str)> = names
        .iter()
        .filter_map(|name| Some((name.strip_prefix(stem)?.strip_suffix(".dump")?, name.as_str())))
        .filter(|(time, _)| is_time(time))
        .collect();
    dumps.sort_unstable();
    dumps.pop();
    dumps.into_iter().filter(|(time, _)| *time < oldest).map(|(_, name)| name).collect()
}

/// True for what [`time::stamp`] makes: `20250131T235959Z`.
fn is_time(text: &str) -> bool {
    text.len() == 16
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use proptest::prelude::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn old_dumps_of_the_same_database_go_but_never_the_newest_nor_what_is_not_ours() {
        let found = names(&[
            "xivo-a-20250102T000000Z.dump",
            "xivo-a-20250101T000000Z.dump",
            "xivo-a-20250301T000000Z.dump",
            "xivo-a-b-20240101T000000Z.dump",
            "xivo-a-before-the-move.dump",
            "xivo-a-20240101T000000Z.dump.gz",
        ]);
        assert_eq!(
            too_old(&found, "xivo-a-", "20250201T000000Z"),
            ["xivo-a-20250101T000000Z.dump", "xivo-a-20250102T000000Z.dump"]
        );
        assert_eq!(too_old(&found[..2], "xivo-a-", "20990101T000000Z"), ["xivo-a-20250101T000000Z.dump"]);
        assert_eq!(too_old(&found[..1], "xivo-a-", "20990101T000000Z"), Vec::<&str>::new());
    }

    #[test]
    fn the_time_in_a_name_is_recognized() {
        assert!(is_time(&time::stamp(Timestamp::now())));
    }

    #[test]
    fn a_dump_has_its_name_only_when_it_is_whole_and_only_root_can_read_it() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join("lib/dumps");
        prepare(&directory).expect("made");
        fs::write(directory.join("old.dump.part"), "half").expect("written");
        prepare(&directory).expect("it is there");
        let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(directory.read_dir().expect("readable").count(), 0, "what a killed run left is gone");

        let (unfinished, path) = (directory.join("a.dump.part"), directory.join("a.dump"));
        let failed = write_file(&unfinished, &path, |_| anyhow::bail!("the disk is full"));
        assert!(failed.is_err() && !path.exists());
        fs::remove_file(&unfinished).expect("it is there");
        let bytes = write_file(&unfinished, &path, |mut file| Ok(io::Write::write_all(&mut file, b"dump")?));
        assert_eq!(bytes.expect("written"), 4);
        assert_eq!(mode(&path), 0o600);
        assert!(!unfinished.exists());
    }

    #[test]
    fn a_database_that_does_not_fit_is_told_with_both_sizes() {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::of_program(Path::new("acme-upgrade")).expect("a good name").below(root.path());
        assert!(check_space(&paths, 0).is_ok());
        let error = check_space(&paths, u64::MAX).expect_err("no disk is that large").to_string();
        assert!(error.contains("/var/lib/acme-upgrade/dumps: ") && error.ends_with("may take 9223 PB"), "{error}");
    }

    proptest! {
        #[test]
        fn no_name_makes_it_panic(found in proptest::collection::vec("(a-)?.{0,20}(\\.dump)?", 0..6), oldest in ".*") {
            prop_assert!(too_old(&found, "a-", &oldest).len() < found.len().max(1));
        }
    }
}
