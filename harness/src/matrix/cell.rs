//! One upgrade of the matrix.

use std::fmt::Write as _;

use anyhow::Result;
use upgrader::model::step::Step;

use super::answer::Answer;
use super::defect::Defect;
use super::record::{NONE, Place};
use super::state::{FRESH, State};
use crate::data::one_line;
use crate::faults::fault::FaultAtStep;
use crate::machines::database;
use crate::machines::image::Debian;
use crate::observe::expectation::Expectation;
use crate::packages::release::Release;

/// One upgrade of the matrix.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The scenario that it belongs to.
    pub scenario: String,
    /// What a user would lose if it were not so.
    pub guarantee: String,
    /// The release that the machine has.
    pub from: String,
    /// The release that is published for it.
    pub to: String,
    /// The machine's Debian.
    pub debian: Debian,
    /// The Debian that it goes to with the same run, if its sources have that.
    pub next_debian: Option<Debian>,
    /// Whether it has a database, which the release changes.
    pub has_database: bool,
    /// The name of the machine's state.
    pub state_name: String,
    pub(crate) state: State,
    pub(crate) fault: Option<FaultAtStep>,
    pub(crate) defect: Option<Defect>,
    pub(crate) answer: Answer,
    /// What the scenario expects.
    pub expect: Expectation,
    /// Why something else is expected than of the scenario's other cells.
    pub remarks: Vec<String>,
    /// Whether `make test` runs it, too.
    pub chosen: bool,
}

impl Cell {
    /// Where it is in the matrix.
    pub fn place(&self) -> Place {
        Place {
            scenario: self.scenario.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            debian: self.debians(),
            state: self.state_name.clone(),
            fault: self.fault.as_ref().map_or_else(|| NONE.to_owned(), FaultAtStep::name),
            answer: self.answer.key().to_owned(),
        }
    }

    /// Its name, unique in the matrix: `faults::1.2.1-to-1.2.2::hook-fails@pre-upgrade-hooks::bookworm`. What is as usual is not in it.
    pub fn name(&self) -> String {
        format!("{}::{}", self.name_anywhere(), self.debians())
    }

    /// A release as its machine has it.
    pub(super) fn release(&self, version: &str) -> Result<Release> {
        if self.has_database { database::release(version) } else { Release::named(version) }
    }

    /// Its Debian, or the way from that to the next.
    fn debians(&self) -> String {
        self.next_debian.map_or_else(|| self.debian.to_string(), |next| format!("{}-to-{next}", self.debian))
    }

    /// The same without the release of Debian: what is seen is the same on every one.
    pub(super) fn name_anywhere(&self) -> String {
        let mut name = format!("{}::{}-to-{}", self.scenario, self.from, self.to);
        let unusual = [
            (self.state_name != FRESH).then(|| self.state_name.clone()),
            self.fault.as_ref().map(FaultAtStep::name),
            self.is_answered().then(|| self.answer.key().to_owned()),
        ];
        for part in unusual.into_iter().flatten() {
            let _ = write!(name, "::{part}");
        }
        name
    }

    /// Whether the answer is another one than usual.
    fn is_answered(&self) -> bool {
        let asked = self.fault.as_ref().is_some_and(|fault| fault.step == Step::Confirm);
        self.answer != if asked { Answer::Yes } else { Answer::default() }
    }

    /// The name of its snapshot, without dots and with nothing that a file system could mind.
    pub fn snapshot(&self) -> String {
        let mut name = self.name_anywhere();
        if self.next_debian.is_some() {
            let _ = write!(name, "::{}", self.debians());
        }
        let name = name.replace("::", "__").replace('@', "_at_").replace('.', "-");
        name.split_once("__").map_or(name.clone(), |(_, rest)| rest.to_owned())
    }

    /// The name of the directory that has its record and its logs.
    pub fn directory(&self) -> String {
        self.name().replace("::", "--")
    }

    /// What is expected of the run: what the scenario says counts before what the answer, the fault and the state say.
    pub fn expectation(&self) -> Expectation {
        let fault = self.fault.as_ref().map(|fault| fault.at.expect.clone()).unwrap_or_default();
        self.expect.or(&self.answer.expectation()).or(&fault).or(&self.state.expect)
    }

    /// What is expected of the run after it, if that one did not upgrade the machine.
    pub fn expectation_again(&self) -> Expectation {
        let fault = self.fault.as_ref().map(|fault| fault.at.again.clone()).unwrap_or_default();
        fault.or(self.state.again.as_ref().unwrap_or(&self.state.expect))
    }

    /// What it does, in sentences.
    pub fn explanation(&self) -> Vec<String> {
        let mut paragraphs = vec![
            one_line(&self.guarantee),
            format!(
                "A machine with Debian {} has XiVO {}; XiVO {} is published for it.",
                self.debian, self.from, self.to
            ),
        ];
        if self.has_database {
            paragraphs.push("Its database is in a PostgreSQL of Debian's, with a thousand calls in it.".to_owned());
        }
        if let Some(next) = self.next_debian {
            paragraphs.push(format!("Its sources for Debian are those of {next}, so that it becomes one."));
        }
        if !self.state.description.is_empty() {
            paragraphs.push(format!("Its state, {}: {}", self.state_name, one_line(&self.state.description)));
        }
        paragraphs.push(self.answer.explained().to_owned());
        if let Some(defect) = &self.defect {
            paragraphs.push(format!("Defect, {}: {}", defect.name, one_line(&defect.file.description)));
        }
        if let Some(fault) = &self.fault {
            paragraphs.push(format!("Fault at the step {}: {}", fault.step, one_line(&fault.fault.description)));
        }
        paragraphs.push(format!("Expected: {}.", self.expectation()));
        paragraphs.extend(self.remarks.iter().map(|remark| one_line(remark)));
        paragraphs
    }

    /// The command that runs it again, and nothing else.
    pub fn again(&self) -> String {
        match &self.defect {
            Some(defect) => format!("cargo run -p harness -- defects {}", defect.name),
            None => format!("cargo run -p harness -- run {}", self.name()),
        }
    }
}
