//! Lines about services and reboots.

use std::io::{self, Write};

use super::Style;
use crate::model::event::Event;

/// Shows nothing for other events.
pub(super) fn show(out: &mut dyn Write, style: Style, event: &Event) -> io::Result<()> {
    match event {
        Event::ServiceUp { service, .. } => writeln!(out, "  {service:<24} {}", style.good("OK"))?,
        Event::ServiceDown { service, reason, log } => {
            writeln!(out, "  {service:<24} {}  {reason}", style.bad("NOK"))?;
            for line in log {
                writeln!(out, "      {line}")?;
            }
        }
        Event::ServiceSkipped(service, reason) => writeln!(out, "  {service:<24} skipped: {reason}")?,
        Event::OthersRestarting(_) => writeln!(out, "Restarting other services that still run replaced files")?,
        Event::ManagerReexecuted(Ok(())) => {
            writeln!(out, "  {:<24} {}, re-executed", "systemd", style.good("OK"))?;
        }
        Event::ManagerReexecuted(Err(error)) => {
            writeln!(out, "  {:<24} {}  {error}", "systemd", style.bad("NOK"))?;
        }
        Event::RestartRecommended(what) => {
            writeln!(out, "Restart recommended; these still run replaced files")?;
            for (name, reason) in what {
                writeln!(out, "  {name:<24} {reason}")?;
            }
        }
        Event::RebootRecommended(reasons) => {
            writeln!(out, "Reboot recommended")?;
            for reason in reasons {
                writeln!(out, "  {reason}")?;
            }
        }
        _ => {}
    }
    Ok(())
}
