//! `real-NAME-upgrade`: what `NAME-upgrade` becomes once its package is up to date.

use std::process::ExitCode;

fn main() -> ExitCode {
    upgrader::cli::main(upgrader::engine::run::run)
}
