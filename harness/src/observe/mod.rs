//! What is observed of a machine from outside the upgrader: its inventory, and what happened on it when.

mod disk_files;
pub mod expectation;
pub mod inventory;
pub mod processes;
pub mod timeline;
