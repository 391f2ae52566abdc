//! Tests of upgrades on real Debian machines.
//!
//! A [`machines::world::World`] is a booted machine (a container in which systemd is process 1) and an apt repository of its
//! own. Packages and releases are data, built and signed here. The upgrader under test is installed from its .deb, and every
//! claim about a run is observed from outside it.

pub mod at_once;
pub mod bench;
pub mod command;
pub mod data;
pub mod demo;
#[cfg(test)]
mod docs;
pub mod faults;
pub mod gate;
pub mod machines;
pub mod matrix;
pub mod observe;
pub mod packages;
pub mod report;
mod runtime;
