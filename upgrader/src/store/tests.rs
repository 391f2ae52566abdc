/// Stopping a rollback in the middle.
pub(super) mod interruption;
/// A machine in a directory, and what upgrades do to one.
mod machine;
/// Machines, upgrades and filesystems of every kind.
mod rollback;
/// Stores that are damaged, sealed, thrown away.
mod stores;
