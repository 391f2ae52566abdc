//! Saves rollback data.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use anyhow::Result;

use super::manifest::{Header, Line, Manifest, SaveMethod};
use super::metadata::{Kind, RawPath, below, read_metadata, read_metadata_in};
use super::scope::{Coverage, SMALL, covered, of_packages};
use super::stores::{Stores, is_overlay};
use super::{Scope, Store, discard, open};
use crate::exit::{Explain as _, Failure};
use crate::files::Places;
use crate::model::package::PackageName;
use crate::paths::Paths;

/// What was saved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// The number of paths.
    pub paths: u64,
    /// The number of files that were saved as hard links.
    pub linked: u64,
    /// The number of files that were cloned.
    pub reflinked: u64,
    /// The number of files that were copied.
    pub copied: u64,
    /// The size of the copies in bytes.
    pub bytes: u64,
}

/// The space that rollback data needs on a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceRequirement {
    /// A path on the filesystem.
    pub on: PathBuf,
    /// For copies and the manifest.
    pub bytes: u64,
    /// For copies.
    pub inodes: u64,
    /// The largest file that is copied, and what the copy takes in bytes.
    pub largest: Option<(PathBuf, u64)>,
    /// What the upgrade does not free while there is rollback data: the old versions of replaced files.
    pub held: u64,
}

/// The size of a block of a filesystem, in bytes.
const BLOCK: u64 = 4096;

/// About what a line of the manifest takes.
const LINE: u64 = 256;

/// Measures the space that rollback data would need on each filesystem.
pub fn measure(paths: &Paths, scope: &Scope) -> Result<Vec<SpaceRequirement>> {
    let mut own = SpaceRequirement { on: paths.state(), bytes: 0, inodes: 8, largest: None, held: 0 };
    let mut others: HashMap<u64, SpaceRequirement> = HashMap::new();
    let own_mount =
        paths.state().ancestors().find_map(|path| read_metadata(path).ok().flatten()).map(|seen| seen.mount);
    let mut inodes = HashSet::new();
    let mut copied_whole: HashMap<u64, bool> = HashMap::new();
    let places = Places::default();
    for (path, treatment) in covered(paths, scope)? {
        let full = below(paths.root(), &path);
        let Some(seen) = read_metadata_in(&places, &full)? else { continue };
        own.bytes += LINE;
        let Kind::File { size, .. } = seen.entry.kind else { continue };
        if !inodes.insert((seen.mount, seen.inode)) {
            continue;
        }
        let is_copied = *copied_whole.entry(seen.mount).or_insert_with(|| is_overlay(full.parent().unwrap_or(&full)));
        let is_link = treatment == Coverage::Link || (treatment == Coverage::CopySmall && size > SMALL);
        if !is_link || is_copied {
            // The last block is rarely full, and a hole takes none.
            let bytes = size.next_multiple_of(BLOCK).min(seen.disk.max(BLOCK));
            own.bytes += bytes;
            own.inodes += 1;
            if own.largest.as_ref().is_none_or(|(_, most)| *most < bytes) {
                own.largest = Some((path, bytes));
            }
        } else if Some(seen.mount) == own_mount {
            own.held += seen.disk;
        } else {
            let on = full.parent().unwrap_or(&full).to_owned();
            others
                .entry(seen.mount)
                .or_insert(SpaceRequirement { on, bytes: 0, inodes: 2, largest: None, held: 0 })
                .held += seen.disk;
        }
    }
    // The kernel's numbers of mounts are in no order that means anything.
    let mut others: Vec<SpaceRequirement> = others.into_values().collect();
    others.sort_by(|one, other| one.on.cmp(&other.on));
    Ok([own].into_iter().chain(others).collect())
}

/// Saves rollback data and discards the previous one. When this returns, the data is complete and durable; if it fails, there is none.
pub fn save(paths: &Paths, scope: &Scope, progress: &mut dyn FnMut(u8)) -> Result<Saved> {
    discard(paths)?;
    fill(paths, scope, progress).map_err(refuse).inspect_err(|_| {
        // The error that led here says more than one about this.
        let _ = discard(paths);
    })
}

/// Saves more packages, which the upgrade has not changed yet. When this returns, they are durable; if it fails, the rollback data is
/// as before.
pub fn extend(paths: &Paths, scope: &Scope, progress: &mut dyn FnMut(u8)) -> Result<Saved> {
    let Some(Store { manifest, .. }) = open(paths)? else { return save(paths, scope, progress) };
    let Header { packages, declared, .. } = &manifest.header;
    let is_new = |package: &&PackageName| !packages.contains(package);
    let more = Scope { packages: scope.packages.iter().filter(is_new).cloned().collect(), declared: Vec::new() };
    if more.packages.is_empty() {
        return Ok(Saved::default());
    }
    let mut covered = of_packages(paths, &more)?;
    covered.retain(|path, _| !manifest.lines.contains_key(path));
    let both = Scope {
        packages: packages.iter().chain(&more.packages).cloned().collect(),
        declared: declared.iter().map(|path| path.path().to_owned()).collect(),
    };
    let places = Stores::reopen(paths, &manifest)?;
    keep(paths, covered, places, &both, manifest.lines, progress).map_err(refuse)
}

fn fill(paths: &Paths, scope: &Scope, progress: &mut dyn FnMut(u8)) -> Result<Saved> {
    let covered = covered(paths, scope)?;
    keep(paths, covered, Stores::create(paths)?, scope, BTreeMap::new(), progress)
}

/// Keeps what is covered, and writes a manifest with it and the lines that there are already.
fn keep(
    paths: &Paths,
    covered: BTreeMap<PathBuf, Coverage>,
    mut places: Stores<'_>,
    scope: &Scope,
    mut lines: BTreeMap<PathBuf, Line>,
    progress: &mut dyn FnMut(u8),
) -> Result<Saved> {
    let mut all = Vec::with_capacity(covered.len());
    // What is edited in place under one of its names has to be copied under all.
    let mut of_inode: HashMap<(u64, u64), Coverage> = HashMap::new();
    let sources = Places::default();
    for (path, treatment) in covered {
        let Some(seen) = read_metadata_in(&sources, &below(paths.root(), &path))? else { continue };
        let is_directory = seen.entry.kind == Kind::Directory;
        // A file on which another is mounted cannot be replaced; a socket is made by the program that listens.
        if seen.entry.kind == Kind::Socket || (seen.is_mount && !is_directory) {
            continue;
        }
        if seen.names > 1 && !is_directory {
            let of_all = of_inode.entry((seen.mount, seen.inode)).or_insert(treatment);
            *of_all = treatment.max(*of_all);
        }
        all.push((path, treatment, seen));
    }
    let mut saved = Saved::default();
    let mut percent = Percent::of(all.len(), progress);
    for (path, treatment, mut seen) in all {
        percent.step();
        let treatment = of_inode.get(&(seen.mount, seen.inode)).copied().unwrap_or(treatment);
        let mut line = Line { path: RawPath::from(path.as_path()), entry: seen.entry.clone(), stored: None };
        if seen.entry.kind.is_file() {
            let Some((stored, bytes)) = places.store(&path, &mut seen, treatment)? else { continue };
            line.entry = seen.entry;
            // As many as were copied: a program may be writing.
            if let Kind::File { size, .. } = &mut line.entry.kind {
                *size = bytes;
            }
            match stored.how {
                SaveMethod::Link => saved.linked += 1,
                SaveMethod::Clone => saved.reflinked += 1,
                SaveMethod::Copy { .. } => {
                    saved.copied += 1;
                    saved.bytes += bytes.min(seen.disk);
                }
            }
            line.stored = Some(stored);
        }
        saved.paths += 1;
        lines.insert(path, line);
    }
    places.sync()?;
    let header = Header::new(scope, &places.directories);
    Manifest { header, lines }.write(&paths.rollback().join("manifest"))?;
    Ok(saved)
}

/// The failure of an upgrade without complete rollback data.
fn refuse(error: anyhow::Error) -> anyhow::Error {
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    let remedy = match kind {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => "Make room on the filesystem and start again.",
        Some(ErrorKind::ReadOnlyFilesystem) => "Remount the filesystem so that it can be written to, and start again.",
        _ => "Fix what is named here, and start again.",
    };
    let failed: Result<()> = Err(error);
    match failed.explain(|| Failure::new("the rollback data cannot be saved").remedy(remedy)) {
        Err(error) => error,
        Ok(()) => anyhow::anyhow!("unreachable"),
    }
}

/// Reports the progress of work, each percent once.
pub(super) struct Percent<'a> {
    all: usize,
    done: usize,
    reported: u8,
    progress: &'a mut dyn FnMut(u8),
}

impl<'a> Percent<'a> {
    pub(super) fn of(all: usize, progress: &'a mut dyn FnMut(u8)) -> Self {
        Self { all, done: 0, reported: 0, progress }
    }

    pub(super) fn step(&mut self) {
        self.done += 1;
        let percent = u8::try_from(self.done * 100 / self.all.max(1)).unwrap_or(100).min(100);
        if percent > self.reported {
            self.reported = percent;
            (self.progress)(percent);
        }
    }
}
