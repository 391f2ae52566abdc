//! The machine: one external program or kernel interface a file.

pub mod apt;
pub mod command;
pub mod conffiles;
pub mod dpkg;
pub mod hooks;
pub mod journalctl;
pub mod lock;
pub mod package_locks;
pub mod policy_rc_d;
pub mod processes;
pub mod reboot;
pub mod signals;
pub mod systemd;
pub mod unattended;
