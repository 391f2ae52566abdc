//! What comes back when.

use std::path::Path;

use super::metadata::{Kind, PathEntry};

/// When a path comes back. New libraries serve old programs, old libraries do not serve new programs: so what depends on
/// others goes first, and the C library, on which everything depends, last. Until then any program can be started, and after it
/// all are the old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RestoreOrder {
    /// What is not there harms nobody when it comes: libraries of other versions, which programs will need.
    Return,
    /// Links that are not there: what they lead to is.
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

/// SaveMethod the names of the C library's parts begin, from the package libc6.
const C_LIBRARY: [&str; 17] = [
    "ld-",
    "ld.so",
    "ld64.so",
    "libc.so",
    "libc-",
    "libm.so",
    "libm-",
    "libmvec",
    "libpthread",
    "libdl.so",
    "libdl-",
    "librt.so",
    "librt-",
    "libresolv",
    "libutil.so",
    "libanl",
    "libnss_",
];

impl RestoreOrder {
    pub(super) fn of(path: &Path, entry: &PathEntry, is_missing: bool) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let is_library = name.ends_with(".so") || name.contains(".so.");
        let is_link = matches!(entry.kind, Kind::Symlink { .. });
        match (is_missing, is_library, is_link) {
            (true, _, false) => Self::Return,
            (true, _, true) => Self::ReturnLink,
            (_, true, _) if C_LIBRARY.iter().any(|begin| name.starts_with(begin)) => Self::C,
            (_, true, false) => Self::Library,
            (_, true, true) => Self::LibraryLink,
            (_, false, false) => Self::Program,
            (_, false, true) => Self::ProgramLink,
        }
    }

    /// True for what had been removed.
    pub(super) fn is_return(self) -> bool {
        self <= Self::ReturnLink
    }
}
