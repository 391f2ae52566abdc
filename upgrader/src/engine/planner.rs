//! Computes the plan from dpkg, apt, the database and the other node; changes nothing.

use std::path::Path;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Result, anyhow};

use crate::checks::pair;
use crate::checks::validated::{self, Set};
use crate::config::product::Product;
use crate::database;
use crate::engine::journal::PastRun;
use crate::engine::restart;
use crate::exit::{Explain as _, Failure};
use crate::model::package::{Offered, Package, native_architecture};
use crate::model::plan::{Change, ChangeKind, Plan};
use crate::model::policy::{ConffilePolicy, ValidationPolicy};
use crate::output::history;
use crate::paths::Paths;
use crate::system::apt::{self, Simulation};
use crate::system::{conffiles, dpkg, systemd};

/// Computes the plan. `installed` is the version of the version package; `past` is the interrupted run that this one resumes.
///
/// # Errors
/// Also if the plan would remove a package that the product needs.
pub(super) fn compute(
    paths: &Paths,
    product: &Product,
    installed: String,
    policies: (ConffilePolicy, ValidationPolicy),
    past: Option<&PastRun>,
) -> Result<Plan> {
    let (candidate, simulation, restart, node) = thread::scope(|scope| {
        let node = scope.spawn(|| product.pair.as_ref().map(pair::inspect).transpose());
        let candidate = scope.spawn(|| apt::versions(&product.version_package));
        let restart =
            scope.spawn(|| if systemd::is_running() { restart::wanted(&product.services) } else { Ok(Vec::new()) });
        let simulation = apt::simulate();
        (join(candidate), simulation, join(restart), join(node))
    });
    let candidate = candidate?.candidate.unwrap_or_else(|| installed.clone());
    let Simulation { changes, unfinished, kept_back } = simulation.explain(|| {
        Failure::new("apt finds no way to upgrade this machine").remedy(
            "`apt-get -s dist-upgrade` shows the same; often `dpkg --configure -a` or `apt-get -f install` helps.",
        )
    })?;
    let mut plan = Plan {
        installed,
        candidate,
        changes,
        unfinished,
        kept_back,
        unfinished_from: past.as_ref().map(|past| past.plan.comes_from().to_owned()),
        restart: restart?,
        node: match (node, past) {
            // An interrupted run must be completed even if the other node does not answer.
            (Err(_), Some(past)) => past.plan.node.clone(),
            (node, _) => node?,
        },
        last_outage_ms: history::last_outage(&paths.history()),
        ..Plan::default()
    };
    let upgrader = paths.package();
    let lost = lost(&plan, product, &upgrader);
    if !lost.is_empty() {
        let why = apt::conflicts(&plan.changes, &lost)?;
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
        let message = format!("apt would remove {}, which {} cannot do without{why}", lost.join(", "), product.name);
        return Err(Failure::new(message)
            .remedy("See `apt-get -s dist-upgrade`; often a package from another source stands in the way.")
            .into());
    }
    let replaced: Vec<&str> = plan.upgraded().collect();
    plan.conffiles = conffiles::edited(&replaced, policies.0)?;
    if let Some(database) = &product.database {
        plan.migrations = database::survey(database, paths, plan.changes_packages())?.pending;
    }
    let (packages, offered) = (dpkg::packages()?, apt::offered(plan.new_versions())?);
    measure(&mut plan, paths.root(), &packages, &offered);
    if let Some(past) = past {
        plan.validated.clone_from(&past.plan.validated);
    } else if policies.1 != ValidationPolicy::Ignore && !plan.is_empty() {
        let sets = Set::all(paths)?;
        plan.validated = validated::judge(&sets, &plan.candidate, &upgrader, &packages, &plan.changes, &offered);
    }
    Ok(plan)
}

/// Adds up the space that the changes need, and what is still to be downloaded.
fn measure(plan: &mut Plan, root: &Path, installed: &[Package], offered: &Offered) {
    let native = native_architecture(installed);
    let bytes = |kibibytes: u64| i64::try_from(kibibytes.saturating_mul(1024)).unwrap_or(i64::MAX);
    for change in &plan.changes {
        let old = installed
            .iter()
            .find(|package| change.package.is_of(&package.name, &package.architecture, native) && package.is_present());
        let old = old.map_or(0, |package| package.installed_size);
        let offer = offered.find(&change.package, native);
        let new = change.new_version().map_or(0, |version| {
            let to_download = offer.filter(|offer| !apt::is_downloaded(root, &change.package, version, offer));
            plan.download = plan.download.saturating_add(to_download.map_or(0, |offer| offer.size));
            offer.map_or(old, |offer| offer.installed_size)
        });
        plan.disk = plan.disk.saturating_add(bytes(new)).saturating_sub(bytes(old));
        plan.largest = plan.largest.max(new.saturating_mul(1024));
    }
}

/// True if a package comes from the source of the product. The plan has no source if the product itself does not change.
pub(super) fn is_of_product(plan: &Plan, change: &Change, product: &Product) -> bool {
    let product = plan.changes.iter().find(|change| change.package == *product.version_package);
    product.is_some_and(|product| change.origins.iter().any(|origin| product.origins.contains(origin)))
}

/// The packages that would be removed although the product or the upgrader needs them.
fn lost<'a>(plan: &'a Plan, product: &Product, upgrader: &str) -> Vec<&'a str> {
    let needed = |package: &str| {
        package == product.version_package
            || package == upgrader
            || product.packages.protected.iter().any(|protected| protected == package)
    };
    plan.changes
        .iter()
        .filter(|change| matches!(change.kind, ChangeKind::Remove { .. }))
        .map(|change| change.package.as_str())
        .filter(|package| needed(package))
        .collect()
}

pub(super) fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}
