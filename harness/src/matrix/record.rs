//! The record of a cell that ran.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::check::Check;
use crate::data;
use crate::machines::machine::Machine;
use crate::machines::transcript::Transcript;
use crate::observe::expectation::Expectation;
use crate::observe::timeline::Span;

/// The machine's logs that are kept: what they are called, and what prints them; `@UPGRADER@` is `xivo-upgrade`.
const LOGS: [(&str, &str); 4] = [
    ("upgrader.log", "cat /var/log/@UPGRADER@.log"),
    ("dpkg.log", "cat /var/log/dpkg.log"),
    ("apt.log", "cat /var/log/apt/term.log"),
    ("journal.log", "journalctl --no-pager --output=short-precise"),
];

/// How the failure of a check begins.
const NOT_TRUE: &str = "check failed: ";

/// The record of a cell that ran: a JSON document beside its logs. Reports are made of records alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The cell's name, unique in the matrix: that of its test.
    pub cell: String,
    /// The values that it has in the matrix's dimensions.
    pub place: Place,
    /// What it does, in sentences, one paragraph each.
    pub explanation: Vec<String>,
    /// What was not as expected, each in a sentence; empty if it passed.
    pub failures: Vec<String>,
    /// What was checked and is as it should be, each in a few words.
    pub checked: Vec<String>,
    /// How long it took in all, in milliseconds.
    pub took: u64,
    /// How long the run of the upgrader took, in milliseconds.
    pub run: u64,
    /// The exit code of the upgrader; `None` if it was not started.
    pub exit: Option<i64>,
    /// The screen as the admin saw it.
    pub screen: String,
    /// What happened when.
    pub timeline: Vec<Span>,
    /// What differs from the cell's snapshot, as a unified diff; `None` if nothing does.
    pub difference: Option<String>,
    /// The names of the files beside this one that have the machine's logs.
    pub logs: Vec<String>,
    /// The command that runs this cell again, and nothing else.
    pub again: String,
}

/// The name of the fault of a run without one.
pub const NONE: &str = "none";

/// Where a cell is in the matrix.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The scenario that it belongs to.
    pub scenario: String,
    /// The release that the machine has.
    pub from: String,
    /// The release that is published for it.
    pub to: String,
    /// The release of Debian, or the way from one to another.
    pub debian: String,
    /// The state of the machine; `fresh` for one as it was installed.
    pub state: String,
    /// What goes wrong, and at which step (`hook-fails@pre-upgrade-hooks`); [`NONE`] if nothing does.
    pub fault: String,
    /// How the question is answered.
    pub answer: String,
}

impl Record {
    /// Notes whether a run ended as expected and said what it has to.
    pub fn expect(&mut self, transcript: &Transcript, expected: &Expectation) {
        if transcript.exit != expected.exit() {
            let Transcript { exit, screen, .. } = transcript;
            self.failures.push(format!("the exit code is {exit}, not {}:\n{screen}", expected.exit()));
        }
        for words in expected.says.iter().filter(|words| !transcript.screen.contains(words.as_str())) {
            self.failures.push(format!("the screen does not say {words:?}"));
        }
    }

    /// Notes what a check found.
    pub fn note(&mut self, (what, findings): Check) {
        if findings.is_empty() {
            self.checked.push(what.to_owned());
        } else {
            self.failures.push(format!("{NOT_TRUE}{what}:\n  {}", findings.join("\n  ")));
        }
    }

    /// The failures, with one item for each finding of a check.
    pub fn findings(&self) -> impl Iterator<Item = String> {
        let split = |failure: &String| match failure.split_once('\n') {
            Some((what, findings)) if what.starts_with(NOT_TRUE) => {
                findings.lines().map(|finding| format!("{what}\n{finding}")).collect()
            }
            _ => vec![failure.clone()],
        };
        self.failures.iter().flat_map(split)
    }

    /// Saves the logs of a machine, whose upgrader's command has this name, in a directory.
    pub fn save_logs(&mut self, machine: &Machine, upgrader: &str, directory: &Path) -> Result<()> {
        let commands = LOGS.map(|(_, command)| format!("{} 2>&1 || :", command.replace("@UPGRADER@", upgrader)));
        for ((name, _), log) in LOGS.iter().zip(machine.ask(commands.each_ref().map(String::as_str))?) {
            fs::write(directory.join(name), log)?;
            self.logs.push((*name).to_owned());
        }
        Ok(())
    }

    /// Saves it beside the logs.
    pub fn save(&self, directory: &Path) -> Result<()> {
        data::write(&directory.join("record.json"), serde_json::to_vec_pretty(self)?)
    }

    /// True if everything was as expected.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}
