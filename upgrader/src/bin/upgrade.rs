//! `NAME-upgrade`: the command that admins type.

use std::process::ExitCode;

fn main() -> ExitCode {
    upgrader::cli::main(upgrader::engine::refresh::run)
}
