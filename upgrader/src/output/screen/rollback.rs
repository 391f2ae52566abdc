//! Lines about interrupted runs and rollbacks.

use std::io::{self, Write};

use super::title;
use crate::model::event::{Event, InterruptedRun, RollbackPreview};
use crate::model::time;

/// How many changed paths to show.
const SHOWN: usize = 10;

/// Shows nothing for other events.
pub(super) fn show(out: &mut dyn Write, event: &Event) -> io::Result<()> {
    match event {
        Event::Interrupted(run) => interrupted(out, run),
        // A step without a title has no line that this could belong to.
        Event::StepAlreadyDone(step) if title(*step).is_some() => writeln!(out, "  done already"),
        Event::HookAlreadyDone(_, hook) => writeln!(out, "  {hook}: done already"),
        Event::Retrying(error) => {
            let first = error.lines().next().unwrap_or_default();
            writeln!(out, "  {}", first.trim_start_matches("error: "))?;
            writeln!(out, "Trying once more")
        }
        Event::RollbackPreview(preview) => show_preview(out, preview),
        Event::RollingBack { product, to } => writeln!(out, "Rolling back to {product} {to}"),
        Event::Restored { changed, removed } => {
            writeln!(out, "  {changed} paths restored, {removed} paths of the upgrade removed")
        }
        Event::DatabaseRestored { database, kept_as } => {
            let kept = kept_as.as_ref().map(|name| format!("; its state before that is kept as {name}"));
            writeln!(out, "  database {database} restored{}", kept.unwrap_or_default())
        }
        _ => Ok(()),
    }
}

fn interrupted(out: &mut dyn Write, run: &InterruptedRun) -> io::Result<()> {
    let InterruptedRun { product, from, to, step, hook, last, .. } = run;
    writeln!(out)?;
    if run.rolling_back {
        writeln!(out, "The rollback of {product} {to} to {from} was interrupted on {}.", time::second(*last))?;
    } else {
        writeln!(out, "The upgrade of {product} {from} to {to} was interrupted on {}.", time::second(*last))?;
    }
    if let Some(step) = step {
        let hook = hook.as_ref().map_or_else(String::new, |hook| format!(", in the hook {hook}"));
        writeln!(out, "It was at the step {step}{hook}.")?;
    }
    if !run.can_roll_back {
        writeln!(out, "It cannot be rolled back: there is no rollback data of {from}.")?;
    }
    Ok(())
}

fn show_preview(out: &mut dyn Write, preview: &RollbackPreview) -> io::Result<()> {
    let from = preview.from.as_deref().unwrap_or("none");
    let product = &preview.product;
    writeln!(out, "\n{product} installed version: {from}\n{product} version after the rollback: {}\n", preview.to)?;
    writeln!(out, "A rollback restores the packages, files and settings of before the upgrade.")?;
    if let Some(database) = &preview.database {
        writeln!(out, "It also restores the database {database}; its present state is kept as a copy.")?;
    } else {
        writeln!(out, "Databases and other data keep what was written since.")?;
    }
    if !preview.changed_since.is_empty() {
        writeln!(
            out,
            "\nChanged since the upgrade ended on {} ({}):",
            time::second(preview.since),
            preview.changed_since.len()
        )?;
        for change in preview.changed_since.iter().take(SHOWN) {
            writeln!(out, "  {change}")?;
        }
        if preview.changed_since.len() > SHOWN {
            writeln!(out, "  … (the log has all)")?;
        }
    }
    if !preview.packages_since.is_empty() {
        let packages = preview.packages_since.join(" ");
        writeln!(
            out,
            "\nPackages changed since, but not by the upgrade ({}): {packages}",
            preview.packages_since.len()
        )?;
        writeln!(
            out,
            "Their files stay, but dpkg will record their state of before the upgrade: reinstall them after the rollback."
        )?;
    }
    writeln!(out)
}
