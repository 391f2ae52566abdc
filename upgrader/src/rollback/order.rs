//! The order in which a rollback restores paths.

use std::path::Path;

use super::metadata::{Kind, PathEntry};

/// When a path is restored. Old programs run with new libraries, but not the other way round. So programs are restored before
/// libraries, and the C library last: at each moment every program can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RestoreOrder {
    /// Missing files, which disturb no program: libraries of other versions, which old programs need.
    Return,
    /// Missing links; their targets are there already.
    ReturnLink,
    /// Programs and data.
    Program,
    /// Links to them.
    ProgramLink,
    /// Libraries.
    Library,
    /// Links to them.
    LibraryLink,
    /// The dynamic loader and the C library's parts, which have to be of one version.
    C,
}

/// The prefixes of the C library's files, from the package libc6.
const C_LIBRARY: &str = "ld- ld.so ld64.so libc.so libc- libm.so libm- libmvec libpthread libdl.so libdl- librt.so librt- \
    libresolv libutil.so libanl libnss_";

impl RestoreOrder {
    pub(super) fn of(path: &Path, entry: &PathEntry, is_missing: bool) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let is_library = name.ends_with(".so") || name.contains(".so.");
        let is_link = matches!(entry.kind, Kind::Symlink { .. });
        match (is_missing, is_library, is_link) {
            (true, _, false) => Self::Return,
            (true, _, true) => Self::ReturnLink,
            (_, true, _) if C_LIBRARY.split(' ').any(|begin| name.starts_with(begin)) => Self::C,
            (_, true, false) => Self::Library,
            (_, true, true) => Self::LibraryLink,
            (_, false, false) => Self::Program,
            (_, false, true) => Self::ProgramLink,
        }
    }
}
