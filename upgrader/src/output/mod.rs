//! Subscribers of the events (screen, log, systemd's journal, recording), and the history of past runs.

pub(crate) mod follow;
pub(crate) mod history;
pub(crate) mod journald;
pub(crate) mod log;
pub(crate) mod notify;
pub(crate) mod question;
mod renderer;
pub(crate) mod screen;
pub(crate) mod sentences;
pub(crate) mod session;
pub(crate) mod stream;
