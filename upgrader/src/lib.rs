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
/// What becomes of conffiles.
pub mod conffiles;
/// config.toml: the admin's settings.
pub mod config;
/// The product's database: what it needs, saving it, migrating it.
pub mod database;
/// What dpkg is asked: installed packages, their conffiles, what is half-done.
pub mod dpkg;
/// What happens, told while it happens.
pub mod event;
/// The exit codes, and errors that say what to do next.
pub mod exit;
/// Looking on while another process works.
pub mod follow;
/// The reports of past runs.
pub mod history;
/// Hooks: which there are, in which order, and running one.
pub mod hooks;
/// What a run has done and is about to do, on the disk before it goes on.
pub mod journal;
/// What services said, from journald.
pub mod journalctl;
/// What happens, told to journald: a reader of events.
pub mod journald;
/// One run at a time.
pub mod lock;
/// The log file, a reader of events.
pub mod log;
/// Telling whom the admin wants to know.
pub mod notify;
/// Somebody else who works with packages.
pub mod package_locks;
/// Two machines, one of which takes over when the other fails: what this one is, and which goes first.
pub mod pair;
/// Whose upgrader this is, and where its files are.
pub mod paths;
/// What would change, computed once, shown, confirmed and executed.
pub mod plan;
/// What maintainer scripts may do to the product's services meanwhile.
pub mod policy;
/// Is the machine fit for an upgrade?
pub mod preflight;
/// What still runs files that were replaced on disk, and whose it is.
pub mod processes;
/// product.toml: what the product is.
pub mod product;
/// The question.
pub mod question;
/// Whether the machine should be rebooted, and why.
pub mod reboot;
/// `NAME-upgrade`: refresh, update itself, become the real one.
pub mod refresh;
/// A run in one piece, a reader of events.
pub mod report;
/// The services' turn: the product's in order, then all others that run replaced files; and whether they stay up.
pub mod restart;
/// `real-NAME-upgrade`: the loop over the steps.
pub mod run;
/// The screen, a reader of events.
pub mod screen;
/// Whom a run is told to, from its first program to its last.
pub mod session;
/// Signals in the middle of an upgrade.
pub mod signals;
/// Numbers of bytes, for people.
pub mod size;
/// How the machine and its upgrader are.
pub mod status;
/// The steps and which may follow which.
pub mod step;
/// The way back: what the upgrade will change, kept until it is known to be good.
pub mod store;
/// The run under way, recorded by who works and read by who looks on.
pub mod stream;
/// TOML files whose errors have a line.
pub mod strict;
/// What systemd is asked: restarts, states, to execute itself anew.
pub mod systemd;
/// What keeps package tools from asking.
pub mod unattended;
/// The packages that passed the vendor's gate, and what differs from them.
pub mod validated;
/// The process that works, once nobody needs to be there any more.
pub mod worker;
