//! Handles signals during an upgrade.

use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::files;
use crate::system::command;

/// True once signals no longer end this process.
static SHIELDED: AtomicBool = AtomicBool::new(false);

/// Set when such a signal has come since [`shield`].
static ASKED_TO_END: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on SIGINT, SIGHUP and SIGTERM end this process and the programs that it has started. Those have their own sessions,
/// and would otherwise continue and hold the locks of apt.
pub(crate) fn leave_when_asked() -> Result<()> {
    let came = Arc::new(AtomicUsize::new(0));
    let (mut reader, writer) = std::io::pipe().context("no pipe")?;
    for signal in heard() {
        let number = usize::try_from(signal).context("a signal's number")?;
        flag::register_usize(signal, Arc::clone(&came), number).context("signals cannot be heard")?;
        low_level::pipe::register(signal, writer.try_clone()?).context("signals cannot be heard")?;
    }
    std::thread::spawn(move || {
        while reader.read_exact(&mut [0]).is_ok() {
            if !SHIELDED.load(Ordering::SeqCst) {
                command::end_all();
                let signal = came.load(Ordering::SeqCst).try_into().unwrap_or(SIGTERM);
                // End by the signal itself: a shell that waits for this program can see that.
                let _ = low_level::emulate_default_handler(signal);
            }
        }
    });
    Ok(())
}

/// From here on SIGINT, SIGHUP and SIGTERM do not end this process, because dpkg would lose the reader of its output.
pub(crate) fn shield() -> Result<()> {
    let came = watch()?;
    let _ = ASKED_TO_END.set(came);
    Ok(())
}

/// True if a signal has asked this process to end since [`shield`]. systemd does that to a unit when the machine shuts down.
pub(crate) fn was_asked_to_end() -> bool {
    ASKED_TO_END.get().is_some_and(|came| came.load(Ordering::SeqCst))
}

/// Like [`shield`], and returns a flag that such a signal sets. For a process that follows a run and may detach.
pub(crate) fn watch() -> Result<Arc<AtomicBool>> {
    let came = Arc::new(AtomicBool::new(false));
    for signal in heard() {
        flag::register(signal, Arc::clone(&came)).context("signals cannot be held off")?;
    }
    SHIELDED.store(true, Ordering::SeqCst);
    Ok(came)
}

/// The signals that are not ignored: nohup(1) ignores SIGHUP.
fn heard() -> Vec<i32> {
    let status = files::of_this_process("status").unwrap_or_default();
    let ignored = ignored(&status);
    [SIGHUP, SIGINT, SIGQUIT, SIGTERM].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0).collect()
}

/// The signals that a process ignores, as a mask in which the lowest bit is signal 1 (`SigIgn` of proc(5)).
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_ignores_stays_ignored() {
        assert_eq!(ignored("Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored("nonsense"), 0);
    }
}
