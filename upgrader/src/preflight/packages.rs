use anyhow::Result;

use super::Finding;
use crate::dpkg::{self, Package};

/// Looks for packages that no upgrade can make whole.
pub(super) fn look() -> Result<Vec<Finding>> {
    Ok(judge(&dpkg::packages()?))
}

fn judge(packages: &[Package]) -> Vec<Finding> {
    packages
        .iter()
        .filter(|package| package.needs_reinstallation)
        .map(|package| {
            let name = &package.name;
            Finding::fatal(
                format!("the package {name} is {}, and dpkg cannot go on from there", package.status),
                format!(
                    "Install it anew: `apt-get install --reinstall {name}`; or, if nobody has it any more: \
                     `dpkg --remove --force-remove-reinstreq {name}`."
                ),
            )
        })
        .collect()
}
