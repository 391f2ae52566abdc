//! How long it takes to go back from the next Debian.

use anyhow::Result;

use super::Sheet;
use crate::faults::crash::next_debian::undone;
use crate::machines::machine::Storage;

/// Going back from the next Debian takes at most so long where what is kept are links, in seconds.
const LIMIT: f64 = 5.0;

/// Measures the way back from a real upgrade to the next Debian that fails when it restarts the services.
pub(super) fn measure(sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title("Going back from trixie to bookworm, once everything was upgraded, without the restart of services")?;
    for (disk, place) in
        [(Storage::Host, "/usr and /var on the host's filesystem"), (Storage::Layers, "the engine's layers")]
    {
        let undone = undone(disk)?;
        sheet.figure(&format!("{place}: arming"), undone.arming.as_secs_f64(), "s")?;
        let (what, took) = (format!("{place}: going back"), undone.going_back.as_secs_f64());
        match disk {
            Storage::Host => sheet.limited(&what, took, LIMIT, "s")?,
            Storage::Layers | Storage::Disk(_) => sheet.figure(&what, took, "s")?,
        }
    }
    Ok(())
}
