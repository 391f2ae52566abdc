//! Checks for half-installed packages that must be reinstalled before dpkg can continue.

use anyhow::Result;

use super::Finding;
use crate::model::package::Package;
use crate::model::plan::Plan;
use crate::system::dpkg;

/// Finds packages that must be reinstalled, and that this plan does not install.
pub(super) fn check(plan: Option<&Plan>) -> Result<Vec<Finding>> {
    let coming: Vec<&str> = plan.into_iter().flat_map(Plan::new_versions).map(|(package, _)| package).collect();
    Ok(judge(&dpkg::packages()?, &coming))
}

fn judge(packages: &[Package], coming: &[&str]) -> Vec<Finding> {
    packages
        .iter()
        // The plan unpacks these again.
        .filter(|package| package.needs_reinstallation && !coming.contains(&package.name.as_str()))
        .map(|package| {
            let name = &package.name;
            Finding::fatal(
                format!("the package {name} is {}, and dpkg cannot go on from there", package.status),
                format!(
                    "Install it again: `apt-get install --reinstall {name}`; or, if no source has it any more: \
                     `dpkg --remove --force-remove-reinstreq {name}`."
                ),
            )
        })
        .collect()
}
