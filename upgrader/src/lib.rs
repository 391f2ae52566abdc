//! The upgrader of a Debian product: one command that upgrades its packages, database and services, or rolls back.
//!
//! Two programs share this library. `NAME-upgrade` refreshes the package lists, updates its own package and executes the
//! `real-NAME-upgrade` that is on disk then. That one plans, asks, upgrades and restarts services ([`engine`]). A run is a
//! sequence of [`model::step::Step`]s, which emit [`model::event::Event`]s; [`output`] subscribes to them.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make and read files of their own"))]

pub mod checks;
pub mod cli;
pub mod config;
pub mod context;
pub mod database;
pub mod engine;
pub mod exit;
mod files;
pub mod model;
mod output;
pub mod paths;
pub mod printable;
pub mod rollback;
pub mod system;

#[cfg(test)]
mod tests {
    use documented::layers::Crate;

    #[test]
    fn imports_go_down_the_layers_and_never_in_a_circle() {
        let wrong = Crate::read("upgrader").misdirected();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn every_file_has_a_header_and_every_type_a_name_of_its_own() {
        let wrong = Crate::read("upgrader").irregular();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
