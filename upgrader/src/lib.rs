//! The upgrader of a Debian appliance.
//!
//! Two programs share this library. `NAME-upgrade` refreshes the package lists, brings its own package up to date and
//! becomes the `real-NAME-upgrade` that is then on disk ([`refresh`]). That one plans, asks, upgrades and restarts
//! ([`run`]). What happens is a list of [`step::Step`]s; each tells what it does as [`event::Event`]s, and the screen and
//! the log are readers of these.

pub mod checks;
pub mod cli;
pub mod config;
pub mod context;
pub mod database;
pub mod engine;
pub mod exit;
pub mod model;
pub mod output;
pub mod paths;
pub mod rollback;
pub mod system;
