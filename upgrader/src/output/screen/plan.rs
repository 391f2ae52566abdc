//! The lines that show a plan.

use std::io::{self, Write};

use crate::model::plan::{Change, ChangeKind, Plan};
use crate::model::policy::ConffilePolicy;
use crate::model::report::seconds;
use crate::model::size::size;
use crate::model::validation::Validation;

/// `own` are the packages of the product.
pub(super) fn show(out: &mut dyn Write, product: &str, own: &[String], plan: &Plan) -> io::Result<()> {
    writeln!(out, "\n{product} installed version: {}", plan.installed)?;
    writeln!(out, "{product} candidate version: {}", plan.candidate)?;
    if let Some(node) = &plan.node {
        writeln!(out, "This node: {node}")?;
    }
    let is_own = |change: &Change| own.iter().any(|own| change.package == **own);
    let upgrade = |change: &&Change| matches!(change.kind, ChangeKind::Upgrade { .. });
    let upgrades = || plan.changes.iter().filter(upgrade);
    if own.is_empty() {
        group(out, "Packages to upgrade", upgrades())?;
    } else {
        group(out, &format!("{product} packages to upgrade"), upgrades().filter(|change| is_own(change)))?;
        group(out, "System packages to upgrade", upgrades().filter(|change| !is_own(change)))?;
    }
    let of_kind = |wanted: fn(&ChangeKind) -> bool| plan.changes.iter().filter(move |change| wanted(&change.kind));
    group(out, "New packages", of_kind(|kind| matches!(kind, ChangeKind::Install { .. })))?;
    group(out, "Packages to remove", of_kind(|kind| matches!(kind, ChangeKind::Remove { .. })))?;
    list(out, "Installed but not configured, to be finished", &plan.unfinished)?;
    if let Some(version) = &plan.unfinished_from {
        writeln!(
            out,
            "\nAn earlier upgrade, from {version}, was not finished: its hooks are run and its services restarted now"
        )?;
    }
    list(out, "Not upgraded, held or kept back", &plan.kept_back)?;
    list(out, "Database migrations", &plan.migrations)?;
    conffiles(out, plan)?;
    if let Some(verdict) = &plan.validated {
        validated(out, product, &plan.candidate, verdict)?;
    }
    if !plan.is_empty() {
        writeln!(out, "\nDownload: {}{}", size(plan.download), growth(plan.disk))?;
        if !plan.restart.is_empty() {
            writeln!(out, "Services to restart, in this order: {}", plan.restart.join(" "))?;
        }
        if let Some(milliseconds) = plan.last_outage_ms {
            writeln!(out, "Last time they were out of service for {} in all", seconds(milliseconds))?;
        }
    }
    writeln!(out)
}

fn group<'a>(out: &mut dyn Write, title: &str, changes: impl Iterator<Item = &'a Change>) -> io::Result<()> {
    let changes: Vec<&Change> = changes.collect();
    if changes.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title} ({}):", changes.len())?;
    let width = changes.iter().map(|change| change.package.as_str().len()).max().unwrap_or(0);
    for change in changes {
        write!(out, "  {:<width$}  ", change.package)?;
        match &change.kind {
            ChangeKind::Upgrade { from, to } => writeln!(out, "{from} -> {to}")?,
            ChangeKind::Install { to: version } | ChangeKind::Remove { from: version } => writeln!(out, "{version}")?,
        }
    }
    Ok(())
}

fn list(out: &mut dyn Write, title: &str, names: &[String]) -> io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title} ({}): {}", names.len(), names.join(" "))
}

fn conffiles(out: &mut dyn Write, plan: &Plan) -> io::Result<()> {
    let Some(first) = plan.conffiles.first() else { return Ok(()) };
    let outcome = match first.policy {
        ConffilePolicy::Replace => {
            "where a package brings another version it is installed, and yours kept as .dpkg-old"
        }
        ConffilePolicy::Keep => "they stay; where a package brings another version it is put beside as .dpkg-dist",
    };
    writeln!(out, "\nConfiguration files that you edited ({}); {outcome}:", plan.conffiles.len())?;
    for conffile in &plan.conffiles {
        let deleted = if conffile.deleted { ", removed" } else { "" };
        writeln!(out, "  {} ({}{deleted})", conffile.path.display(), conffile.package)?;
    }
    Ok(())
}

fn validated(out: &mut dyn Write, product: &str, candidate: &str, verdict: &Validation) -> io::Result<()> {
    if verdict.debian.is_none() {
        return writeln!(
            out,
            "\nNot validated by the {product} team: {candidate}, only {}",
            verdict.versions.join(", ")
        );
    }
    write!(out, "\nValidated by the {product} team: {} of {} packages", verdict.same(), verdict.packages)?;
    writeln!(out, "{}", if verdict.differing.is_empty() { "" } else { ", but not" })?;
    verdict.differing.iter().try_for_each(|difference| writeln!(out, "  {difference}"))
}

fn growth(bytes: i64) -> String {
    match bytes {
        0 => String::new(),
        1.. => format!("; on disk: {} more", size(bytes.unsigned_abs())),
        _ => format!("; on disk: {} less", size(bytes.unsigned_abs())),
    }
}
