//! What was cut short, and going back.

use std::io::{self, Write};

use jiff::Timestamp;

use super::title;
use crate::model::event::{Event, InterruptedRun, RollbackPreview};

/// How many changed paths are shown; the log has all.
const SHOWN: usize = 10;

/// Shows what was cut short and the way back from it, and nothing of other events.
pub(super) fn show(out: &mut dyn Write, event: &Event) -> io::Result<()> {
    match event {
        Event::Interrupted(run) => cut_short(out, run),
        // Without a title there is nothing to say that of.
        Event::StepAlreadyDone(step) if title(*step).is_some() => writeln!(out, "  done already"),
        Event::HookAlreadyDone(_, hook) => writeln!(out, "  {hook}: done already"),
        Event::Retrying(error) => {
            let first = error.lines().next().unwrap_or_default();
            writeln!(out, "  {}", first.trim_start_matches("error: "))?;
            writeln!(out, "Trying once more")
        }
        Event::RollbackPreview(back) => way_back(out, back),
        Event::RollingBack { product, to } => writeln!(out, "Going back to {product} {to}"),
        Event::Restored { changed, removed } => {
            writeln!(out, "  {changed} paths put back, {removed} removed that had come with the upgrade")
        }
        Event::DatabaseRestored { database, kept_as } => {
            writeln!(out, "  database {database} put back; as it was last, it is kept as {kept_as}")
        }
        _ => Ok(()),
    }
}

fn cut_short(out: &mut dyn Write, run: &InterruptedRun) -> io::Result<()> {
    let InterruptedRun { product, from, to, step, hook, last, .. } = run;
    writeln!(out)?;
    if run.rolling_back {
        writeln!(out, "Going back from {product} {to} to {from} was cut short on {}.", when(*last))?;
    } else {
        writeln!(out, "The upgrade of {product} {from} to {to} was cut short on {}.", when(*last))?;
    }
    if let Some(step) = step {
        let hook = hook.as_ref().map_or_else(String::new, |hook| format!(", in the hook {hook}"));
        writeln!(out, "It was at the step {step}{hook}.")?;
    }
    if !run.can_roll_back {
        writeln!(out, "There is no way back: nothing of {from} was kept.")?;
    }
    Ok(())
}

fn way_back(out: &mut dyn Write, back: &RollbackPreview) -> io::Result<()> {
    let from = back.from.as_deref().unwrap_or("none");
    let product = &back.product;
    writeln!(out, "\n{product} installed version: {from}\n{product} version to go back to: {}\n", back.to)?;
    writeln!(out, "Packages, files and settings become again what they were before the upgrade.")?;
    if let Some(database) = &back.database {
        writeln!(out, "So does the database {database}: what was written to it since is in a copy beside it.")?;
    } else {
        writeln!(out, "What was written to databases and other data since stays.")?;
    }
    if !back.changed_since.is_empty() {
        writeln!(out, "\nChanged since the upgrade ended on {} ({}):", when(back.since), back.changed_since.len())?;
        for change in back.changed_since.iter().take(SHOWN) {
            writeln!(out, "  {change}")?;
        }
        if back.changed_since.len() > SHOWN {
            writeln!(out, "  … (the log has all)")?;
        }
    }
    if !back.packages_since.is_empty() {
        let packages = back.packages_since.join(" ");
        writeln!(out, "\nPackages that others have changed since ({}): {packages}", back.packages_since.len())?;
        writeln!(
            out,
            "Their files stay, but dpkg will have them as they were before the upgrade: install them once more then."
        )?;
    }
    writeln!(out)
}

/// `2026-11-22 at 15:48:53 UTC`.
fn when(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d at %H:%M:%S UTC").to_string()
}
