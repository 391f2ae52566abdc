//! The machine: one external program or kernel interface a file.

pub(crate) mod apt;
pub(crate) mod command;
pub(crate) mod conffiles;
pub(crate) mod dpkg;
pub(crate) mod filesystems;
pub mod hooks;
pub(crate) mod inhibitor;
pub(crate) mod journalctl;
pub(crate) mod lock;
pub(crate) mod package_locks;
pub(crate) mod policy_rc_d;
pub(crate) mod processes;
pub(crate) mod reboot;
pub(crate) mod signals;
pub(crate) mod systemd;
pub(crate) mod unattended;
pub(crate) mod without_sync;

use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

use crate::files;

/// Removes a file. An absent one is removed already.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match files::Place::of(path).and_then(|place| place.remove_file()) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The paths in a directory, sorted. An absent directory has none; a dangling link is an error.
pub(crate) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let names = match files::canonical(directory).and_then(files::names_in) {
        Err(error) if error.kind() == ErrorKind::NotFound && files::target(directory).is_err() => {
            return Ok(Vec::new());
        }
        names => names?,
    };
    let mut paths: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
    paths.sort();
    Ok(paths)
}
