use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// From here on neither Ctrl-C, nor a terminal that goes away, nor a polite kill ends this process: dpkg, in the middle of its
/// work, would lose the reader of its output.
pub fn shield() -> Result<()> {
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).context("signals cannot be held off")?;
    }
    Ok(())
}
