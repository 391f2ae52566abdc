//! Checks that each filesystem is writable and has enough space and inodes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::statvfs;

use super::Finding;
use crate::files;
use crate::model::plan::{Change, ChangeKind, Plan};
use crate::model::size::size;
use crate::paths::Paths;
use crate::rollback;
use crate::system::apt;
use crate::system::filesystems;

/// The space that must stay free on every filesystem, for logs, the database of dpkg, and running services.
const RESERVE: u64 = 16 * 1024 * 1024;

/// How many free inodes a filesystem must have, if it counts them.
const FILES: u64 = 1000;

/// The space that a kernel and its initial ramdisk take in /boot, if there is none to measure.
const KERNEL: u64 = 80 * 1024 * 1024;

/// Space that the upgrade requires at a path.
struct Requirement {
    path: PathBuf,
    bytes: u64,
    what: &'static str,
    /// The largest file that is copied, and its size in bytes.
    largest: Option<(PathBuf, u64)>,
}

impl Requirement {
    fn new(path: PathBuf, bytes: u64, what: &'static str) -> Self {
        Self { path, bytes, what, largest: None }
    }
}

/// The directories that every upgrade writes to.
const WRITTEN: [&str; 6] = ["etc", "usr", "var/lib/dpkg", apt::DOWNLOADS, "var/log", "tmp"];

/// Checks that the directories that an upgrade writes to are writable.
pub(super) fn writable(paths: &Paths) -> Result<Vec<Finding>> {
    let places = WRITTEN.map(|place| paths.root().join(place));
    are_writable(places.into_iter().chain([paths.state()]))
}

fn are_writable(places: impl Iterator<Item = PathBuf>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for place in places {
        let Some(place) = existing(&place) else { continue };
        let shown = place.display();
        let filesystem = statvfs(place).with_context(|| shown.to_string())?;
        if filesystems::is_read_only(place)? {
            findings.push(Finding::fatal(
                format!("{shown} is on a filesystem that is mounted read-only"),
                filesystems::how_to_make_writable(place),
            ));
        } else if filesystem.f_files > 0 && filesystem.f_favail < FILES {
            findings.push(Finding::fatal(
                format!("{shown} is on a filesystem that has room for {} more files", filesystem.f_favail),
                format!("Remove files that are not needed: `du --inodes -xd1 {shown}` shows where they are many."),
            ));
        }
    }
    findings.dedup();
    Ok(findings)
}

/// Checks that the changes fit on each filesystem. While dpkg unpacks the largest package, both versions are on the disk.
pub(super) fn check(paths: &Paths, plan: &Plan, kept: Vec<rollback::SpaceRequirement>) -> Result<Vec<Finding>> {
    let at = |path: &str| paths.root().join(path);
    let packages = plan.disk.max(0).unsigned_abs().saturating_add(plan.largest);
    let kernels = plan.changes.iter().filter(|change| brings_kernel(change)).count() as u64;
    let kernels = kernel_size(&at("boot")).saturating_mul(kernels);
    let mut needs = vec![
        Requirement::new(at(apt::DOWNLOADS), plan.download, "the downloads"),
        Requirement::new(at("usr"), packages, "the new packages"),
        Requirement::new(at("var/lib/dpkg"), 0, "dpkg's database"),
        Requirement::new(at("boot"), kernels, "the new kernel"),
    ];
    needs.extend(kept.into_iter().map(|kept| Requirement {
        largest: kept.largest,
        ..Requirement::new(kept.on, kept.bytes.saturating_add(kept.held), "the rollback data")
    }));
    let mut findings = judge(needs)?;
    let touches_boot = |change: &&Change| {
        ["linux-image-", "initramfs-tools"].iter().any(|start| change.package.bare().starts_with(start))
    };
    if plan.changes.iter().any(|change| touches_boot(&change)) {
        findings.extend(are_writable(std::iter::once(at("boot")))?);
    }
    Ok(findings)
}

/// True for a package that installs an additional kernel: `linux-image-6.1.0-28-amd64`, and not the metapackage
/// `linux-image-amd64`, nor one that replaces a kernel of the same name.
fn brings_kernel(change: &Change) -> bool {
    let version = change.package.bare().strip_prefix("linux-image-").unwrap_or_default();
    matches!(change.kind, ChangeKind::Install { .. })
        && version.starts_with(|first: char| first.is_ascii_digit())
        && !version.ends_with("-dbg")
}

fn judge(needs: Vec<Requirement>) -> Result<Vec<Finding>> {
    let mut filesystems: BTreeMap<u64, Vec<Requirement>> = BTreeMap::new();
    for need in needs {
        if let Some(place) = existing(&need.path) {
            let device = files::metadata(place).with_context(|| place.display().to_string())?.dev();
            filesystems.entry(device).or_default().push(Requirement { path: place.to_owned(), ..need });
        }
    }
    let mut findings = Vec::new();
    for needs in filesystems.into_values() {
        let Some(place) = needs.first().map(|need| need.path.as_path()) else { continue };
        let needed = needs.iter().fold(RESERVE, |sum, need| sum.saturating_add(need.bytes));
        let filesystem = statvfs(place).with_context(|| place.display().to_string())?;
        let free = filesystem.f_bavail.saturating_mul(filesystem.f_frsize);
        if free < needed {
            let what: Vec<&str> = needs.iter().filter(|need| need.bytes > 0).map(|need| need.what).collect();
            let what = if what.is_empty() { "the upgrade".to_owned() } else { what.join(" and ") };
            let shown = place.display();
            // What an upgrade needs is many small files; a single one that matters is worth a look.
            let largest = needs.iter().filter_map(|need| need.largest.as_ref()).find(|(_, bytes)| *bytes > needed / 4);
            let largest = largest.map_or_else(String::new, |(path, bytes)| {
                format!(" {} is saved for a rollback and has {}: is it configuration?", path.display(), size(*bytes))
            });
            findings.push(Finding::fatal(
                format!("the filesystem of {shown} has {} free, and {what} need {}", size(free), size(needed)),
                format!(
                    "Make room: `apt-get clean` removes old downloads, `du -xhd1 {shown}` shows what is big.{largest}"
                ),
            ));
        }
    }
    Ok(findings)
}

/// The path, or the nearest directory above it that exists.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| files::exists(path))
}

/// The size of the largest kernel in /boot with the files generated for it, in bytes.
fn kernel_size(boot: &Path) -> u64 {
    let mut versions: BTreeMap<String, u64> = BTreeMap::new();
    for name in files::names_in(boot).unwrap_or_default() {
        let path = boot.join(&name);
        let name = name.to_string_lossy().into_owned();
        if let (Some((_, version)), Ok(metadata)) = (name.split_once('-'), files::metadata(&path)) {
            let sum = versions.entry(version.to_owned()).or_default();
            *sum = sum.saturating_add(metadata.len());
        }
    }
    versions.into_values().max().unwrap_or(KERNEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_one_filesystem_is_added_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let need = |bytes, what| Requirement::new(directory.path().join("not/there"), bytes, what);
        assert_eq!(judge(vec![need(1, "the downloads"), need(1, "the new packages")]).expect("readable"), []);
        let findings = judge(vec![need(u64::MAX, "the downloads"), need(1, "the new packages")]).expect("readable");
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("the downloads and the new packages need"), "{findings:?}");
    }

    #[test]
    fn a_kernel_is_counted_once_and_only_if_it_comes_beside_others() {
        let kernel = "linux-image-6.1.0-28-amd64";
        assert!(brings_kernel(&Change::install(kernel, "1")));
        for other in [
            Change::install("linux-image-6.1.0-28-amd64-dbg", "1"),
            Change::upgrade(kernel, "1", "2"),
            Change::install("linux-image-amd64", "1"),
            Change::upgrade("linux-image-amd64", "1", "2"),
        ] {
            assert!(!brings_kernel(&other), "{other}");
        }
    }

    #[test]
    fn a_new_kernel_is_as_large_as_the_largest_there_is() {
        let boot = tempfile::tempdir().expect("a directory");
        assert_eq!(kernel_size(boot.path()), KERNEL);
        for (name, length) in [("vmlinuz-6.1", 10), ("initrd.img-6.1", 30), ("vmlinuz-5.10", 8), ("grub", 1000)] {
            std::fs::write(boot.path().join(name), vec![0; length]).expect("written");
        }
        assert_eq!(kernel_size(boot.path()), 40);
    }
}
