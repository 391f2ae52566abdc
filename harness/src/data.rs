//! Reads the TOML files of this tree strictly, lists the files below a directory, and writes files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use serde::de::DeserializeOwned;
use upgrader::config::strict;

/// Reads a TOML file. The error is one line that names the file, the line and the key.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    parse(path, &fs::read_to_string(path).with_context(|| path.display().to_string())?)
}

/// Reads the text of a TOML file that is at `path`, with errors as those of [`read`].
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    strict::parse(text).map_err(|(line, message)| anyhow!("{}:{line}: {message}", path.display()))
}

/// Writes a file, and makes the directories that it needs.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let directory = path.parent().with_context(|| format!("{} is not a file", path.display()))?;
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    fs::write(path, content).with_context(|| path.display().to_string())
}

/// A path in this tree, from its root, unless it is absolute.
pub fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The first item that is there twice.
pub(crate) fn repeated<T: Ord + Copy>(items: impl IntoIterator<Item = T>) -> Option<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().find(|item| !seen.insert(*item))
}

/// A text of data without its line breaks.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every TOML file in one of the harness's own directories by its name without the extension, in the order of the names.
pub fn files(directory: &str) -> Result<Vec<(String, PathBuf)>> {
    let paths = files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &["toml"])?.into_iter();
    Ok(paths.filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path))).collect())
}

/// The files in and below a directory that have one of these extensions, in the order of their paths.
pub fn files_below(directory: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path, extensions)?);
        } else if path.extension().is_some_and(|found| extensions.iter().any(|extension| found == *extension)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a text as if it were the file with this name.
#[cfg(test)]
pub(crate) fn read_as<T>(name: &str, text: &str, read: impl FnOnce(&Path) -> T) -> T {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(name);
    fs::write(&path, text).expect("the file is written");
    read(&path)
}

/// The keys that a table can have.
#[cfg(test)]
pub(crate) fn keys<T: DeserializeOwned>() -> BTreeSet<String> {
    expected::<T>("unknown = 1")
}

/// What can be in the place of something that is not known.
#[cfg(test)]
pub(crate) fn expected<T: DeserializeOwned>(text: &str) -> BTreeSet<String> {
    let complaint = parse::<T>(Path::new("x.toml"), text).err().unwrap();
    documented::expected(&complaint.to_string())
}
