//! Faults that are injected into an upgrade from outside the upgrader: the files in `faults/`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use serde::Deserialize;
use upgrader::model::step::{Mode, Next, Outcome, Step};

use crate::data;
use crate::observe::expectation::Expectation;
use crate::packages::repository_fault;
use crate::packages::repository_fault::{Affected, RepositoryFault};

/// A fault: a file in `faults/`. It lists every step of a run: what is expected if the fault is injected there, or why it cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fault {
    /// A description of the fault.
    pub description: String,
    /// True if the fault needs a database at every step. At the step `migrate`, each fault does.
    #[serde(default)]
    pub database: bool,
    /// The fault of the repository. The step decides which files are affected.
    pub repository: Option<repository_fault::ServerFault>,
    /// Shell commands that run on the machine before the upgrader is started.
    #[serde(default)]
    pub prepare: String,
    /// Shell commands that run once on the machine, in the middle of the step. Their exit code is that of the hook or script that runs them.
    #[serde(default)]
    pub inject: String,
    /// True if the commands run each time that a run reaches the step, and not only the first time.
    #[serde(default)]
    pub persists: bool,
    /// True if the power of the machine is cut in the middle of the step, and restored.
    #[serde(default)]
    pub power_cut: bool,
    /// Shell commands with which the admin repairs the machine afterwards.
    #[serde(default)]
    pub fix: String,
    /// The steps at which the fault can be injected, and the differences between them.
    pub at: Vec<Steps>,
    /// The steps at which the fault cannot be injected, with the reason.
    #[serde(default)]
    pub not_applicable: Vec<NotApplicable>,
}

/// The expectations if a fault is injected at one of these steps.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Steps {
    /// The steps.
    pub steps: Vec<Step>,
    /// More shell commands that run before the upgrader is started.
    #[serde(default)]
    pub prepare: String,
    /// The repair at these steps, in place of that of the fault.
    pub fix: Option<String>,
    /// The expected result of the run.
    #[serde(default)]
    pub expect: Expectation,
    /// The expected result of the next run, after the repair.
    #[serde(default)]
    pub again: Expectation,
}

/// Steps at which a fault cannot be injected.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotApplicable {
    /// The steps.
    pub steps: Vec<Step>,
    /// The reason.
    pub reason: String,
}

/// A fault at a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultAtStep {
    /// The name of the fault's file.
    pub name: String,
    /// The fault.
    pub fault: Fault,
    /// The step.
    pub step: Step,
    /// The expectations at this step.
    pub at: Steps,
}

impl Fault {
    /// Reads a file. The error names the file, and the line and the key or the step that is missing.
    pub fn read(path: &Path) -> Result<Self> {
        let fault: Self = data::read(path)?;
        let mut listed = BTreeSet::new();
        let others = fault.not_applicable.iter().flat_map(|other| &other.steps);
        for step in fault.at.iter().flat_map(|at| &at.steps).chain(others) {
            ensure!(listed.insert(*step), "{}: the step {step} is there twice", path.display());
        }
        for step in steps() {
            ensure!(listed.contains(&step), "{}: the step {step} is missing", path.display());
        }
        Ok(fault)
    }

    /// The fault at every step at which it can be injected, in the order of the steps.
    pub fn at_steps(&self, name: &str) -> Vec<FaultAtStep> {
        let at_step = |step| {
            let at = self.at.iter().find(|at| at.steps.contains(&step))?.clone();
            Some(FaultAtStep { name: name.to_owned(), fault: self.clone(), step, at })
        };
        steps().into_iter().filter_map(at_step).collect()
    }
}

impl FaultAtStep {
    /// `hook-fails@pre-upgrade-hooks`.
    pub fn name(&self) -> String {
        format!("{}@{}", self.name, key(self.step))
    }

    /// True if a command runs or the power is cut in the middle of the step.
    pub fn is_injected(&self) -> bool {
        self.fault.power_cut || !self.fault.inject.is_empty()
    }

    /// True if the fault needs a machine with a database.
    pub fn needs_database(&self) -> bool {
        self.fault.database || self.step == Step::Migrate
    }

    /// The fault of the repository at this step.
    pub fn repository(&self) -> Option<RepositoryFault> {
        let fault = self.fault.repository?;
        if fault.is_of_the_whole() {
            return Some(fault.into());
        }
        Some(RepositoryFault::new(
            fault,
            match self.step {
                Step::SelfUpdate => Affected::Upgrader,
                Step::Download => Affected::Packages,
                _ => Affected::Indices,
            },
        ))
    }

    /// The shell commands with which the admin repairs the machine.
    pub fn fix(&self) -> &str {
        self.at.fix.as_deref().unwrap_or(&self.fault.fix)
    }
}

/// Every step of a run that is not interrupted.
pub fn steps() -> Vec<Step> {
    let following = |step: &Step| match step.next(Outcome::Done, Mode::Upgrade) {
        Next::Step(next) => Some(next),
        Next::End(_) => None,
    };
    std::iter::successors(Some(Step::Refresh), following).collect()
}

/// A step as it is written in data: `pre-upgrade-hooks`.
pub fn key(step: Step) -> String {
    step.to_string().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use documented::Page;

    use super::*;
    use crate::data::read_as;

    fn complaint(text: &str) -> String {
        let error = read_as("bad.toml", text, Fault::read).unwrap_err().to_string();
        error.rsplit_once('/').unwrap().1.to_owned()
    }

    #[test]
    fn every_key_and_every_step_is_documented() {
        let page = Page::read("docs/reference/matrix.md");
        let (at, not_applicable) = (data::keys::<Steps>(), data::keys::<NotApplicable>());
        let steps: BTreeSet<String> = steps().into_iter().map(key).collect();
        page.section("### Where it is injected").has_keys(at.clone());
        page.section("### Where it cannot be").has_keys(not_applicable.clone());
        page.section("### Steps").has_keys(steps.clone());
        page.section("## Faults").has_keys([data::keys::<Fault>(), at, not_applicable, steps].into_iter().flatten());
    }

    #[test]
    fn the_examples_of_the_documentation_are_good() {
        for example in Page::read("docs/reference/matrix.md").examples("fault") {
            read_as("example.toml", &example.text, Fault::read).unwrap();
        }
    }

    #[test]
    fn a_fault_lists_every_step_once() {
        let of = |steps: &str| {
            format!(
                "description = \"\"\n[[at]]\nsteps = [\"refresh\"]\n[[not-applicable]]\nreason = \"\"\nsteps = {steps}\n"
            )
        };
        assert_eq!(complaint(&of("[]")), "bad.toml: the step self-update is missing");
        assert_eq!(complaint(&of("[\"refresh\"]")), "bad.toml: the step refresh is there twice");
        assert!(complaint(&of("[\"lunch\"]")).starts_with("bad.toml:6: steps: unknown variant `lunch`"));
        assert_eq!(steps().len(), 14);
        assert!(steps().iter().all(|step| toml::Value::try_from(step).unwrap().as_str() == Some(key(*step).as_str())));
    }
}
