//! A test harness for upgrades of Debian machines.
//!
//! A [`world::World`] is a booted machine (a container with systemd as process 1) and an apt repository of its own. Packages
//! and releases are data, built and signed here; the upgrader under test is installed from its .deb, and everything that is
//! said about a run is observed from outside it.

/// Machines in the field: an old release installed, a new one published.
pub mod appliance;
/// Two pieces of work at once.
mod at_once;
/// What a world and the upgrader cost.
pub mod bench;
/// The upgrader's programs, built as they are shipped.
pub mod binaries;
/// Programs of this host.
pub mod command;
/// A run that is cut short anywhere, and what becomes of the machine.
pub mod crash;
/// TOML files.
pub mod data;
/// The product's database, in a PostgreSQL of Debian's.
pub mod database;
/// .deb files.
pub mod deb;
/// An upgrade to watch.
pub mod demo;
/// What holds the pages of docs/ and the code together.
#[cfg(test)]
mod docs;
/// The container engine, and what earlier runs left in it.
pub mod engine;
/// Machines on which services behave like the real ones.
pub mod exchange;
/// Many machines, and one with Ansible that upgrades them.
pub mod fleet;
/// Upgrades from a vendor's old repository to a candidate: what gates a release.
pub mod gate;
/// The machines' images.
pub mod image;
/// A repository's signing key.
pub mod key;
/// A cable between two machines.
pub mod link;
/// Debian's own opinion of a package.
pub mod lintian;
/// A booted machine and the commands it runs.
pub mod machine;
/// Man pages and the file of settings, made from the code.
pub mod manual;
/// The matrix: every old release, every Debian, every mishap.
pub mod matrix;
/// What is seen of a machine and of what happened on it.
pub mod observation;
/// Packages as data.
pub mod package;
/// Releases as data: the files in `releases/`.
pub mod release;
/// What became of the matrix, for people and for CI servers.
pub mod report;
/// A signed apt repository in memory.
pub mod repository;
/// The HTTP server of a repository.
pub mod server;
/// Services of synthetic releases, with the maintainer scripts that debhelper would write.
pub mod service;
/// The upgrader's own package, as it is shipped.
pub mod shipped;
/// What a person at a terminal sees.
pub mod terminal;
/// What a person saw of a command.
pub mod transcript;
/// A machine and its repository.
pub mod world;
