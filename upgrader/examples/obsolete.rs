//! Names the services of this machine that run files which were replaced on disk, one a line; systemd itself is
//! `systemd-manager`, as needrestart calls it. For `harness bench libraries`.

use std::io::{Write as _, stdout};

use upgrader::system::processes::Processes;

fn main() -> anyhow::Result<()> {
    let found = Processes::of_this_machine().obsolete()?;
    let manager = found.manager.map(|_| "systemd-manager".to_owned());
    for name in found.services.into_keys().chain(manager) {
        writeln!(stdout(), "{name}")?;
    }
    Ok(())
}
