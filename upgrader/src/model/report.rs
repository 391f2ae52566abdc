//! The report of a run, made from its events.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::model::conffile::ConffileResult;
use crate::model::event::{Attention, Event, Subscriber};
use crate::model::finding::Finding;
use crate::model::hook::{HookOutcome, Phase};
use crate::model::plan::Plan;
use crate::model::step::Step;

/// The version of the report's form. It grows when a key changes its meaning or goes away; new keys may come at any time.
pub const SCHEMA: u32 = 1;

/// The report of a run: `--json` prints it, the history saves it, a notification gets it.
///
/// Keys that are not known are passed over, and those that are missing are empty: an older or newer upgrader may have
/// written it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The version of the upgrader.
    pub upgrader: String,
    /// The product's name, as people write it.
    pub product: String,
    /// When the run started.
    pub started: Option<Timestamp>,
    /// When it ended; none while it runs, and if it was interrupted.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub result: RunResult,
    /// Its exit code.
    pub exit_code: Option<u8>,
    /// True if the run reached the steps that change the machine.
    pub detached: bool,
    /// The step that it is at, or was when it ended.
    pub step: Option<Step>,
    /// What would change, or has changed.
    pub plan: Option<Plan>,
    /// What was not as it should be for an upgrade.
    pub findings: Vec<Finding>,
    /// What became of conffiles.
    pub conffiles: Vec<ConffileResult>,
    /// The hooks, in the order they ran.
    pub hooks: Vec<HookReport>,
    /// True if the upgrade was rolled back, or a rollback had begun.
    pub rolled_back: bool,
    /// Where the database as it was before is; none if it was not migrated.
    pub dump: Option<String>,
    /// The migrations that were applied, in order.
    pub migrated: Vec<String>,
    /// The services that were restarted, in that order.
    pub services: Vec<ServiceReport>,
    /// The product's services that were not restarted because the admin does not want them, and how that is known.
    pub skipped: Vec<(String, String)>,
    /// What runs replaced files and cannot be restarted on a machine that is in use, and why.
    pub restart_recommended: Vec<(String, String)>,
    /// Why the machine should be rebooted.
    pub reboot_recommended: Vec<String>,
    /// What wants the admin's attention.
    pub attention: Vec<Attention>,
    /// Why it failed, and what to do.
    pub error: Option<String>,
    /// The last message on the screen.
    pub message: String,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunResult {
    /// It has not ended.
    #[default]
    Unfinished,
    /// Done, or nothing to do.
    Done,
    /// Done, and something wants attention.
    Attention,
    /// The question was not answered with yes.
    Declined,
    /// It failed, and no package was changed.
    Unchanged,
    /// It failed, and everything is as it was before.
    RolledBack,
    /// It failed in the middle and needs a human.
    NeedsHuman,
    /// What a newer upgrader calls it.
    #[serde(other)]
    Unknown,
}

/// A hook that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookReport {
    /// When.
    pub phase: Phase,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub result: HookOutcome,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

/// A service that was restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its name.
    pub name: String,
    /// Whether it came up, and stayed up.
    pub up: bool,
    /// How long it was out of service, in milliseconds; none for one that is not back.
    pub outage_ms: Option<u64>,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<Exit> for RunResult {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::Done,
            Exit::Attention => Self::Attention,
            Exit::Declined => Self::Declined,
            Exit::Unchanged | Exit::Usage | Exit::Busy => Self::Unchanged,
            Exit::RolledBack => Self::RolledBack,
            Exit::NeedsHuman => Self::NeedsHuman,
        }
    }
}

impl fmt::Display for RunResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unfinished => "unfinished",
            Self::Done => "done",
            Self::Attention => "done, but something wants attention",
            Self::Declined => "declined",
            Self::Unchanged => "failed, nothing changed",
            Self::RolledBack => "failed, rolled back",
            Self::NeedsHuman => "failed, needs a human",
            Self::Unknown => "unknown",
        })
    }
}

impl Subscriber for Report {
    fn receive(&mut self, event: &Event) {
        match event {
            Event::Started { version, time, .. } => {
                self.schema = SCHEMA;
                self.upgrader.clone_from(version);
                self.started.get_or_insert(*time);
            }
            Event::Detached { .. } => self.detached = true,
            Event::Began(step) => self.step = Some(*step),
            Event::Planned { product, plan, .. } => {
                self.product.clone_from(product);
                self.plan = Some(Plan::clone(plan));
            }
            Event::HookEnded { phase, hook, ended, milliseconds } => self.hooks.push(HookReport {
                phase: *phase,
                name: hook.clone(),
                result: ended.clone(),
                milliseconds: *milliseconds,
            }),
            Event::RollingBack { product, .. } => {
                self.product.clone_from(product);
                self.rolled_back = true;
            }
            Event::DatabaseSaved { file, .. } => self.dump = Some(file.clone()),
            Event::Migrated(name, Ok(())) => self.migrated.push(name.clone()),
            Event::ServiceUp { service, outage } => self.service(service, Some(*outage), None),
            Event::ServiceDown { service, reason, .. } => self.service(service, None, Some(reason.clone())),
            Event::ServiceSkipped(service, reason) => self.skipped.push((service.clone(), reason.clone())),
            Event::RestartRecommended(what) => self.restart_recommended.clone_from(what),
            Event::RebootRecommended(reasons) => self.reboot_recommended.clone_from(reasons),
            Event::Attention(attention) => self.attention.push(attention.clone()),
            Event::Failed(text) => self.error = Some(text.clone()),
            Event::Finished { exit, time, message } => {
                self.ended = Some(*time);
                self.result = (*exit).into();
                self.exit_code = Some(exit.code());
                self.message.clone_from(message);
            }
            Event::Found(finding) => self.findings.push(finding.clone()),
            Event::Conffile(entry) => self.conffiles.push(entry.clone()),
            // All else is for displays and the log.
            _ => {}
        }
    }
}

impl Report {
    /// Takes note of a service. What is known last counts: one that came up may have gone down since.
    fn service(&mut self, name: &str, outage_ms: Option<u64>, reason: Option<String>) {
        self.services.retain(|service| service.name != name);
        self.services.push(ServiceReport { name: name.to_owned(), up: reason.is_none(), outage_ms, reason });
    }

    /// How long services were out of service, all of them added up, in milliseconds.
    pub fn outage_ms(&self) -> u64 {
        self.services.iter().filter_map(|service| service.outage_ms).fold(0, u64::saturating_add)
    }
}

/// Milliseconds as people read them: `0.41 s`.
pub fn seconds(milliseconds: u64) -> String {
    format!("{}.{:02} s", milliseconds / 1000, milliseconds % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_another_time_can_be_read() {
        let report: Report = serde_json::from_str(
            r#"{"schema": 2, "upgrader": "9", "result": "levitated", "mood": "good", "exit_code": 0}"#,
        )
        .expect("unknown keys and values are passed over");
        assert_eq!((report.schema, report.result), (2, RunResult::Unknown));
    }

    #[test]
    fn every_key_of_every_document_is_documented() {
        let documented = include_str!("../../../docs/report.md");
        let keys = |value: serde_json::Value| -> Vec<String> {
            value.as_object().expect("an object").keys().cloned().collect()
        };
        let report = serde_json::to_value(Report::default()).expect("data");
        let plan = serde_json::to_value(Plan::default()).expect("data");
        let status = serde_json::to_value(crate::engine::status::Status::default()).expect("data");
        let drift = serde_json::to_value(crate::checks::validated::Drift::default()).expect("data");
        for key in [report, plan, status, drift].into_iter().flat_map(keys) {
            assert!(documented.contains(&format!("`{key}`")), "docs/report.md does not know {key}");
        }
    }

    #[test]
    fn the_exit_code_and_the_result_say_the_same() {
        let mut report = Report::default();
        assert_eq!(report.result, RunResult::Unfinished);
        for exit in [Exit::Done, Exit::Attention, Exit::Declined, Exit::Unchanged, Exit::RolledBack, Exit::NeedsHuman] {
            report.receive(&Event::Finished { exit, time: Timestamp::UNIX_EPOCH, message: String::new() });
            assert_eq!(report.exit_code, Some(exit.code()));
            assert_eq!(report.result, RunResult::from(exit));
        }
    }
}
