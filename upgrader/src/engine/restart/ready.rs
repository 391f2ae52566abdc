//! Waiting for a service to be ready, by the command that product.toml declares.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::config::product::Ready;
use crate::system::command::Program;

/// How often a readiness command is run again.
const INTERVAL: Duration = Duration::from_millis(200);

/// Waits until a service that systemd calls active really serves.
///
/// # Errors
/// If it does not within its time.
pub(super) fn wait(ready: &Ready) -> Result<()> {
    let deadline = Instant::now() + ready.timeout;
    let Some((program, arguments)) = ready.command.split_first() else { return Ok(()) };
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        if Program::new(program).args(arguments).time_limit(left).succeeds()? {
            return Ok(());
        }
        sleep(INTERVAL);
    }
    bail!("not ready after {:?}: {}", ready.timeout, ready.command.join(" "))
}
