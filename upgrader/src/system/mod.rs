//! The machine: one external program or kernel interface a file.

pub(crate) mod apt;
pub(crate) mod command;
pub(crate) mod conffiles;
pub(crate) mod dpkg;
pub(crate) mod filesystems;
pub mod hooks;
pub(crate) mod journalctl;
pub(crate) mod lock;
pub(crate) mod package_locks;
pub(crate) mod policy_rc_d;
pub(crate) mod processes;
pub(crate) mod reboot;
pub(crate) mod signals;
pub(crate) mod systemd;
pub(crate) mod unattended;
