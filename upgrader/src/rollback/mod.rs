//! Saves rollback data, compares the machine with it, and rolls back. dpkg replaces a file by a new inode and a rename, so a hard
//! link to the old inode preserves the old file. Rollback data consists of such links, or of clones where the filesystem has them;
//! files that are edited in place are copied. A manifest has what links do not preserve: dpkg removes setuid bits from the old inode.
//!
//! ```text
//! /var/lib/NAME-upgrade/rollback/manifest   every path that is covered; complete, or not there
//!                                finalized  the same of the machine after the upgrade
//!                                places     the stores on other filesystems
//!                                files/     links and copies, by number
//! MOUNT/.NAME-upgrade-rollback/files/       links to what is on that filesystem
//! ```

mod added;
mod check;
mod content;
mod filesystems;
mod manifest;
mod metadata;
mod operations;
mod order;
mod restore;
mod save;
mod scope;
mod stores;
#[cfg(test)]
mod tests;
mod units;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use metadata::{is_absent, mount_of};
pub use restore::Restored;
pub use save::{Saved, SpaceRequirement, extend, measure, save};

use crate::files::{Place, Places};
use crate::model::package::PackageName;
use crate::paths::Paths;

/// The paths to save.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Every package that the upgrade changes, removes or installs; a name with or without an architecture.
    pub packages: Vec<PackageName>,
    /// The product's own state, in addition to what is always covered: `rollback.paths` of product.toml.
    pub declared: Vec<PathBuf>,
}

impl Scope {
    /// True for a package whose files the upgrade changes.
    fn has(&self, package: &str) -> bool {
        self.packages.iter().any(|name| name.bare() == package)
    }
}

/// Damage of rollback data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// The content of this path is missing. A rollback is impossible.
    Missing(PathBuf),
    /// The saved content of this path has changed. A rollback is impossible.
    Corrupt(PathBuf),
    /// A program wrote into this file instead of replacing it, so its old content is lost. All other paths can be rolled back.
    EditedInPlace(PathBuf),
}

impl Damage {
    /// True if a rollback is impossible.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::EditedInPlace(_))
    }
}

/// A path that differs from the rollback data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathDifference {
    /// Where.
    pub path: PathBuf,
    /// In what.
    pub change: PathChange,
}

/// How a path differs from the rollback data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathChange {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// It is something else: a file instead of a link, another device.
    Type,
    /// It is the same kind of thing, but differs in these.
    Aspects(Vec<Aspect>),
}

/// In what two things of one type can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// What is in a file.
    Content,
    /// Where a link leads.
    Target,
    /// Permissions, setuid and setgid included.
    Mode,
    /// User or group.
    Owner,
    /// Extended attributes: capabilities, access control lists.
    Xattrs,
    /// The time of the last change of the content.
    Time,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{} is missing", path.display()),
            Self::Corrupt(path) => write!(f, "{} is damaged", path.display()),
            Self::EditedInPlace(path) => write!(f, "{} was edited in place", path.display()),
        }
    }
}

impl PathDifference {
    /// True if more than the time differs. A time alone is that of a directory in which something else changed, or of a file that was
    /// written as it was.
    pub fn matters(&self) -> bool {
        self.change != PathChange::Aspects(vec![Aspect::Time])
    }
}

impl fmt::Display for PathDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.change)
    }
}

impl fmt::Display for PathChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added => f.write_str("new"),
            Self::Removed => f.write_str("gone"),
            Self::Type => f.write_str("something else"),
            Self::Aspects(aspects) => {
                for (index, aspect) in aspects.iter().enumerate() {
                    write!(f, "{}{aspect}", if index == 0 { "other " } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Content => "content",
            Self::Target => "target",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Xattrs => "extended attributes",
            Self::Time => "time",
        })
    }
}

/// Complete rollback data.
#[derive(Debug)]
pub struct Store {
    paths: Paths,
    manifest: manifest::Manifest,
    /// The contents that were saved.
    objects: Places,
}

/// Opens the rollback data; `None` if there is none, or if it is incomplete.
pub fn open(paths: &Paths) -> Result<Option<Store>> {
    let manifest = manifest::Manifest::read(&paths.rollback().join("manifest"))?;
    Ok(manifest.map(|manifest| Store { paths: paths.clone(), manifest, objects: Places::default() }))
}

/// Removes the rollback data of all filesystems. If this is interrupted, the data is complete or invalid; calling it again removes
/// the rest.
pub fn discard(paths: &Paths) -> Result<()> {
    let own = paths.rollback();
    let manifest = own.join("manifest");
    // Without that there is no store. (Renaming the directory would do as well, but not where overlayfs has it from below.)
    let removed = Place::of(&manifest).and_then(|place| place.remove_file());
    match removed {
        Err(error) if is_absent(&error) => {}
        removed => {
            removed.with_context(|| manifest.display().to_string())?;
            stores::sync_filesystem(&own)?;
        }
    }
    for directory in stores::listed(&own)? {
        // One that is listed may not be there yet, where nothing can be written.
        if let Some(top) = directory.parent().filter(|_| matches!(mount_of(&directory), Ok(Some(_)))) {
            stores::keeping_time(top, || stores::remove(&directory))?;
        }
    }
    // The list of the others goes last.
    stores::remove(&own)
}
