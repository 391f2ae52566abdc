use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// From here on neither Ctrl-C, nor a terminal that goes away, nor a polite kill ends this process: dpkg, in the middle of its
/// work, would lose the reader of its output.
pub fn shield() -> Result<()> {
    watch().map(drop)
}

/// The same, and tells whether such a signal has come. For a process that only looks on and may leave.
pub fn watch() -> Result<Arc<AtomicBool>> {
    let came = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&came)).context("signals cannot be held off")?;
    }
    Ok(came)
}
