//! The states of machines: the files in `states/`.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::check::Check;
use crate::machines::machine::Machine;
use crate::machines::world::World;
use crate::observe::expectation::Expectation;
use crate::packages::repository_fault::ServerFault;

/// The state of a machine as it was installed.
pub const FRESH: &str = "fresh";

/// A state that a machine in the field can be in: a file in `states/`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct State {
    /// A description of the state, and how a machine gets into it.
    pub description: String,
    /// Shell commands that bring the machine into it, before the new release is published.
    #[serde(default)]
    pub prepare: String,
    /// Shell commands that run beside the upgrader, in a unit `beside.service` of their own; the upgrader starts once they have made
    /// `/run/beside.ready`.
    #[serde(default)]
    pub beside: String,
    /// Shell commands of the shell in which the upgrader is started: `umask 077`.
    #[serde(default)]
    pub shell: String,
    /// Whether the upgrader is one of an earlier day, which has to update itself first.
    #[serde(default)]
    pub old_upgrader: bool,
    /// How the repository looks to such a machine, until the state is fixed.
    pub repository: Option<ServerFault>,
    /// Shell commands that succeed if what belongs to the admin was respected.
    #[serde(default)]
    pub respected: String,
    /// Packages that only this machine has: published together with the old release.
    #[serde(default, rename = "package")]
    pub packages: Vec<crate::packages::package::Package>,
    /// What is expected of an upgrade of such a machine.
    #[serde(default)]
    pub expect: Expectation,
    /// What the admin does about it, in shell commands, after a run that did not upgrade the machine.
    #[serde(default)]
    pub fix: String,
    /// What is expected of the run after that, if it is something else.
    pub again: Option<Expectation>,
}

impl State {
    /// Brings a machine into it, on which the old release is installed.
    pub fn bring_about(&self, world: &mut World) -> Result<()> {
        if !self.packages.is_empty() {
            world.publish(&self.packages)?;
        }
        if !self.prepare.is_empty() {
            world.machine.sh("apt-get -qq update")?;
            world.machine.sh(&self.prepare).context("the machine does not come into its state")?;
        }
        Ok(())
    }

    /// Starts what runs beside the upgrader, if anything does, and waits until it is ready.
    pub fn start_beside(&self, machine: &Machine) -> Result<()> {
        if self.beside.is_empty() {
            return Ok(());
        }
        machine.write("/root/beside", format!("#!/bin/sh\nset -e\n{}\n", self.beside).as_bytes(), 0o755)?;
        machine.sh("systemd-run --quiet --collect --unit=beside /root/beside")?;
        machine.wait_until("test -e /run/beside.ready")
    }

    /// Whether what belongs to the admin was respected; `None` if the state has no such check.
    pub fn check(&self, machine: &Machine) -> Result<Option<Check>> {
        if self.respected.is_empty() {
            return Ok(None);
        }
        let transcript = machine.command(&["sh", "-euxc", &self.respected]).run()?;
        let findings = if transcript.exit == 0 { Vec::new() } else { vec![transcript.screen] };
        Ok(Some(("what belongs to the admin was respected", findings)))
    }
}
