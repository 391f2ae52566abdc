//! The upgrader of a Debian appliance.
//!
//! Two programs share this library. `NAME-upgrade` refreshes the package lists, brings its own package up to date and
//! becomes the `real-NAME-upgrade` that is then on disk ([`refresh`]). That one plans, asks, upgrades and restarts
//! ([`run`]). What happens is a list of [`step::Step`]s; each tells what it does as [`event::Event`]s, and the screen and
//! the log are readers of these.

/// What apt is asked: lists, a simulation, downloads, the upgrade.
pub mod apt;
/// The command line, and what both programs make of it.
pub mod cli;
/// The one way to run an external program.
pub mod command;
/// The product's database: what it needs, saving it, migrating it.
pub mod database;
/// What dpkg is asked: installed versions.
pub mod dpkg;
/// What happens, told while it happens.
pub mod event;
/// The exit codes, and errors that say what to do next.
pub mod exit;
/// Hooks: which there are, in which order, and running one.
pub mod hooks;
/// One run at a time.
pub mod lock;
/// The log file, a reader of events.
pub mod log;
/// Whose upgrader this is, and where its files are.
pub mod paths;
/// What would change, computed once, shown, confirmed and executed.
pub mod plan;
/// What maintainer scripts may do to the product's services meanwhile.
pub mod policy;
/// product.toml: what the product is.
pub mod product;
/// The question.
pub mod question;
/// `NAME-upgrade`: refresh, update itself, become the real one.
pub mod refresh;
/// `real-NAME-upgrade`: the loop over the steps.
pub mod run;
/// The screen, a reader of events.
pub mod screen;
/// Signals in the middle of an upgrade.
pub mod signals;
/// The steps and which may follow which.
pub mod step;
/// What systemd is asked: restarts, readiness, states.
pub mod systemd;
/// What keeps package tools from asking.
pub mod unattended;
