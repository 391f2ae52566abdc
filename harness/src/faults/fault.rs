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

/// A fault: a file in `faults/`. It says of every step of a run what happens if it is injected there, or why it cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fault {
    /// What goes wrong.
    pub description: String,
    /// Whether it needs a database at every step; at the step `migrate` each does.
    #[serde(default)]
    pub database: bool,
    /// What is wrong with the repository; which files that is about comes from the step.
    pub repository: Option<repository_fault::ServerFault>,
    /// Shell commands that run on the machine before the upgrader is started.
    #[serde(default)]
    pub prepare: String,
    /// Shell commands that run on the machine in the middle of the step, once; their exit code is that of whatever runs them there.
    #[serde(default)]
    pub inject: String,
    /// Whether that happens each time it comes by, and not only the first time.
    #[serde(default)]
    pub persists: bool,
    /// Whether the machine loses its power in the middle of the step, and gets it back.
    #[serde(default)]
    pub power_cut: bool,
    /// What the admin does about it afterwards, in shell commands.
    #[serde(default)]
    pub mend: String,
    /// The steps at which it can be injected, and what is different there.
    pub at: Vec<Steps>,
    /// The steps at which it cannot, and why.
    #[serde(default)]
    pub not_applicable: Vec<NotApplicable>,
}

/// What happens if a fault is injected at one of these steps.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Steps {
    /// Which.
    pub steps: Vec<Step>,
    /// More shell commands that run before the upgrader is started.
    #[serde(default)]
    pub prepare: String,
    /// What the admin does about it here, instead of what helps elsewhere.
    pub mend: Option<String>,
    /// What is expected of the run.
    #[serde(default)]
    pub expect: Expectation,
    /// What is expected of the run after it, when all is mended.
    #[serde(default)]
    pub again: Expectation,
}

/// Steps at which a fault cannot be injected.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotApplicable {
    /// Which.
    pub steps: Vec<Step>,
    /// Why.
    pub reason: String,
}

/// A fault at a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultAtStep {
    /// The name of the fault's file.
    pub name: String,
    /// What goes wrong.
    pub fault: Fault,
    /// Where.
    pub step: Step,
    /// What happens there.
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

    /// Every step at which it can be injected, in the order of the steps.
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

    /// Whether something runs on the machine in the middle of the step.
    pub fn is_injected(&self) -> bool {
        self.fault.power_cut || !self.fault.inject.is_empty()
    }

    /// Whether it needs a machine with a database.
    pub fn needs_database(&self) -> bool {
        self.fault.database || self.step == Step::Migrate
    }

    /// What is wrong with the repository when the step comes to it.
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

    /// What the admin does about it.
    pub fn mend(&self) -> &str {
        self.at.mend.as_deref().unwrap_or(&self.fault.mend)
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
