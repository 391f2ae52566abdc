use std::collections::BTreeMap;

use serde::Deserialize;

use super::expectation::Expectation;

/// A state that a machine in the field can be in: a file in `states/`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct State {
    /// What it is and how a machine comes to it, for a person.
    pub description: String,
    /// Shell commands that bring the machine into it, before the new release is published.
    #[serde(default)]
    pub prepare: String,
    /// Shell commands that run beside the upgrader, in a unit `beside.service` of their own; the upgrader starts once they have made
    /// `/run/beside.ready`.
    #[serde(default)]
    pub beside: String,
    /// Variables of the admin's environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Shell commands that succeed if what belongs to the admin was respected.
    #[serde(default)]
    pub respected: String,
    /// Packages that nobody but this machine has: published together with the old release.
    #[serde(default, rename = "package")]
    pub packages: Vec<crate::package::Package>,
    /// What is expected of an upgrade of such a machine.
    #[serde(default)]
    pub expect: Expectation,
}
