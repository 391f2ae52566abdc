//! Subscribers of the events, and what past runs left: screen, log, journal of systemd, report, history.

pub mod follow;
pub mod history;
pub mod journald;
pub mod log;
pub mod notify;
pub mod question;
pub mod screen;
pub mod sentences;
pub mod session;
pub mod stream;
