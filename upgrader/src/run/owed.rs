use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::paths::Paths;

/// Notes on disk, before packages change, that hooks and services are owed their turn, and which version the machine comes
/// from: once the packages are there, nothing else would tell the next run. True if there was no such note; an older one
/// stays.
pub(super) fn note(paths: &Paths, installed: &str) -> Result<bool> {
    let note = paths.owed();
    if note.try_exists().with_context(|| note.display().to_string())? {
        return Ok(false);
    }
    write(&note, &paths.state(), installed).with_context(|| note.display().to_string())?;
    Ok(true)
}

fn write(note: &Path, directory: &Path, installed: &str) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    let new = note.with_extension("new");
    let mut file = File::create(&new)?;
    writeln!(file, "{installed}")?;
    file.sync_all()?;
    fs::rename(&new, note)?;
    File::open(directory)?.sync_all()
}

/// The version that the machine comes from, if hooks and services are owed their turn.
pub(super) fn read(paths: &Paths) -> Result<Option<String>> {
    let note = paths.owed();
    match fs::read_to_string(&note) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| note.display().to_string()),
    }
}

/// They have had their turn, or there is none to have.
pub(super) fn settle(paths: &Paths) -> Result<()> {
    let note = paths.owed();
    match fs::remove_file(&note) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| note.display().to_string()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_the_machine_comes_from_outlives_a_second_attempt() {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::of_program(Path::new("acme-upgrade")).expect("a good name").below(root.path());
        assert_eq!(read(&paths).expect("readable"), None);
        assert!(note(&paths, "1:2.0~rc1").expect("writable"));
        assert!(!note(&paths, "3").expect("writable"), "the machine is on its way to 3");
        assert_eq!(read(&paths).expect("readable").as_deref(), Some("1:2.0~rc1"));
        settle(&paths).expect("removable");
        settle(&paths).expect("nothing to remove");
        assert_eq!(read(&paths).expect("readable"), None);
    }
}
