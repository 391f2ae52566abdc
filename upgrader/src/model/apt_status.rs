//! What apt reports while it works: lines and progress.

/// What apt reports while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AptStatus<'a> {
    /// A line that it, dpkg or a maintainer script printed.
    Line(&'a str),
    /// How far it is.
    Progress {
        /// In percent of what it does.
        percent: u8,
        /// What it is at.
        what: &'a str,
    },
}
