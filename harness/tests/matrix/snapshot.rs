//! Compares the snapshots of the cells with the earlier ones.

use std::collections::BTreeSet;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use harness::data::files_below;
use harness::matrix::cell::Cell;
use libtest_mimic::Failed;
use similar::TextDiff;

/// Where the snapshots of the matrix are: a directory for each scenario.
const SNAPSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots/matrix");

/// Where the snapshot of a cell is: one for all releases of Debian.
pub(crate) fn path(cell: &Cell) -> PathBuf {
    Path::new(SNAPSHOTS).join(&cell.scenario).join(format!("{}.snap", cell.snapshot()))
}

/// What differs between what a cell saw and its snapshot, which insta compares and writes.
pub(crate) fn difference(cell: &Cell, document: &str) -> Option<String> {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(SNAPSHOTS).join(&cell.scenario));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(&cell.guarantee);
    let compare = AssertUnwindSafe(|| settings.bind(|| insta::assert_snapshot!(cell.snapshot(), document)));
    let compared = std::panic::catch_unwind(compare);
    if compared.is_ok() {
        return None;
    }
    let before = fs::read_to_string(path(cell)).unwrap_or_default();
    let before = before.splitn(3, "---\n").nth(2).unwrap_or_default();
    let diff = TextDiff::from_lines(before.trim_end(), document.trim_end());
    Some(diff.unified_diff().header("snapshot", "this run").to_string())
}

/// A snapshot that no cell compares itself with is out of date and misleads its readers.
pub(crate) fn none_is_stale(known: &[PathBuf]) -> Result<(), Failed> {
    let known: BTreeSet<&PathBuf> = known.iter().collect();
    let found = files_below(Path::new(SNAPSHOTS), &["snap"])?;
    let stale: Vec<_> = found.iter().filter(|path| !known.contains(path)).collect();
    let missing: Vec<_> = known.iter().filter(|path| !found.contains(path)).collect();
    if stale.is_empty() && missing.is_empty() {
        return Ok(());
    }
    Err(format!("snapshots that no cell uses: {stale:?}, and cells without one: {missing:?}").into())
}
