//! The preflight checks: whether this machine can be upgraded. Each finding has a remedy.

mod clock;
mod packages;
mod scripts;
mod sources;
mod space;
mod units;

use anyhow::Result;

use crate::config::product::Product;
use crate::model::finding::Finding;
use crate::model::plan::Plan;
use crate::paths::Paths;
use crate::rollback;

/// Runs all checks of the machine. A check that cannot run is a finding, too.
pub fn check(paths: &Paths, product: &Product, has_systemd: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    add(&mut findings, sources::check(product));
    add(&mut findings, clock::check(paths.root()));
    findings.extend(scripts::check(paths));
    add(&mut findings, space::writable(paths));
    if has_systemd {
        add(&mut findings, units::check(&product.services.order));
    }
    findings
}

/// Checks the plan, if there is one: whether it fits on the disks together with the rollback data (`kept`), and which packages it
/// leaves broken.
pub fn check_plan(paths: &Paths, plan: Option<&Plan>, kept: Result<Vec<rollback::SpaceRequirement>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    add(&mut findings, packages::check(plan));
    if let Some(plan) = plan {
        add(&mut findings, kept.and_then(|kept| space::check(paths, plan, kept)));
    }
    findings
}

fn add(findings: &mut Vec<Finding>, found: Result<Vec<Finding>>) {
    match found {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(Finding::from(&error)),
    }
}
