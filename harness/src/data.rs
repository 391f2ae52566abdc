//! TOML files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use serde::de::DeserializeOwned;
use upgrader::config::strict;

/// Reads a TOML file.
///
/// # Errors
/// One line that names the file, the line and the key.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    parse(path, &fs::read_to_string(path).with_context(|| path.display().to_string())?)
}

/// Reads the text of a TOML file that is at `path`.
///
/// # Errors
/// As those of [`read`].
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    strict::parse(text).map_err(|(line, message)| anyhow!("{}:{line}: {message}", path.display()))
}

/// Every TOML file in one of the harness's own directories by its name without the ending, in the order of the names.
pub fn files(directory: &str) -> Result<Vec<(String, PathBuf)>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut files = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "toml")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            files.push((name.to_owned(), path));
        }
    }
    files.sort();
    Ok(files)
}

/// The keys that a table can have.
#[cfg(test)]
pub(crate) fn keys<T: DeserializeOwned>() -> std::collections::BTreeSet<String> {
    expected::<T>("unknown = 1")
}

/// What can be in the place of something that is not known.
#[cfg(test)]
pub(crate) fn expected<T: DeserializeOwned>(text: &str) -> std::collections::BTreeSet<String> {
    let complaint = parse::<T>(Path::new("x.toml"), text).err().unwrap();
    documented::expected(&complaint.to_string())
}
