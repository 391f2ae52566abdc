//! The log file, a reader of events.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::{Timestamp, Unit};

use crate::model::event::{Event, Subscriber};
use crate::model::hook::HookOutcome;

/// The log file: every event and every line of every program, each with its time.
#[derive(Debug)]
pub struct Log<W> {
    writer: W,
}

impl Log<File> {
    /// Opens a log file at its end.
    pub fn open(path: &Path) -> Result<Self> {
        // What maintainer scripts and hooks print may be private, and so may conffiles, whose differences are in it.
        let file = File::options().append(true).create(true).mode(0o640).open(path);
        Ok(Self { writer: file.with_context(|| format!("{}: cannot be written", path.display()))? })
    }
}

impl<W: Write> Log<W> {
    fn write(&mut self, text: &str) {
        let now = Timestamp::now().round(Unit::Millisecond).unwrap_or_default();
        for line in text.lines() {
            // A full disk must not end an upgrade because of its log.
            let _ = writeln!(self.writer, "{now} {line}");
        }
    }

    /// What was cut short, and going back.
    fn write_way_back(&mut self, event: &Event) {
        match event {
            Event::Interrupted(run) => {
                let step = run.step.map_or_else(String::new, |step| format!(" at the step {step}"));
                self.write(&format!("{} -> {} was cut short{step}, after {}", run.from, run.to, run.last));
            }
            Event::StepAlreadyDone(step) => self.write(&format!("step {step} was done before")),
            Event::HookAlreadyDone(phase, hook) => self.write(&format!("{phase} hook {hook} was run before")),
            Event::RollbackDataSaved { paths, bytes } => {
                self.write(&format!("{paths} paths are kept to go back, {bytes} bytes are copies"));
            }
            Event::Retrying(error) => self.write(&format!("trying once more after: {error}")),
            Event::RollbackPreview(back) => {
                self.write(&format!("the way back: {} to {}", back.product, back.to));
                for path in &back.changed_since {
                    self.write(&format!("changed since: {path}"));
                }
            }
            Event::RollingBack { product, to } => self.write(&format!("going back to {product} {to}")),
            Event::Restored { changed, removed } => self.write(&format!("{changed} paths put back, {removed} removed")),
            Event::DatabaseRestored { database, kept_as } => {
                self.write(&format!("the database {database} is as it was; as it was last it is kept as {kept_as}"));
            }
            _ => {}
        }
    }
}

impl<W: Write> Subscriber for Log<W> {
    fn receive(&mut self, event: &Event) {
        match event {
            Event::Started { version, arguments, .. } => {
                self.write(&format!("upgrader {version} started with arguments {arguments:?}"));
            }
            Event::Answered(yes) => self.write(if *yes { "the answer is yes" } else { "the answer is no" }),
            Event::Waiting { who, seconds } => self.write(&format!("waiting for {who}, {seconds} s more at most")),
            Event::Found(finding) => self.write(&format!("{finding}. {}", finding.remedy)),
            Event::Progress { .. } => {}
            Event::Conffile(entry) => {
                let sum = |sum: &Option<String>| sum.clone().unwrap_or_else(|| "-".to_owned());
                let (before, after) = (sum(&entry.sha256_before), sum(&entry.sha256_after));
                self.write(&format!("conffile: {entry} (SHA-256 {before} -> {after})"));
            }
            Event::Interrupted(_)
            | Event::StepAlreadyDone(_)
            | Event::HookAlreadyDone(..)
            | Event::RollbackDataSaved { .. }
            | Event::Retrying(_)
            | Event::RollbackPreview(_)
            | Event::RollingBack { .. }
            | Event::Restored { .. }
            | Event::DatabaseRestored { .. } => self.write_way_back(event),
            Event::Repairing => self.write("dpkg was interrupted: finishing its work"),
            Event::Began(step) => self.write(&format!("step {step} began")),
            Event::Ended(step) => self.write(&format!("step {step} ended")),
            Event::SelfUpdate { package, from, to, outcome } => {
                self.write(&format!("self-update: {package} {from} -> {to}: {outcome:?}"));
            }
            Event::Planned { product, plan, .. } => {
                self.write(&format!(
                    "plan: {product} {} -> {}, {} bytes to fetch",
                    plan.installed, plan.candidate, plan.download
                ));
                for change in &plan.changes {
                    self.write(&format!("plan: {change}"));
                }
                for package in &plan.unfinished {
                    self.write(&format!("plan: {package} is installed but not configured"));
                }
                for migration in &plan.migrations {
                    self.write(&format!("plan: database migration {migration}"));
                }
                for package in &plan.kept_back {
                    self.write(&format!("plan: {package} is kept back"));
                }
            }
            Event::HookBegan(phase, hook) => self.write(&format!("{phase} hook {hook} began")),
            Event::HookSkipped(phase, hook, reason) => self.write(&format!("{phase} hook {hook} skipped: {reason}")),
            Event::HookEnded { phase, hook, ended, milliseconds } => {
                let how = match ended {
                    HookOutcome::Done => "is done".to_owned(),
                    HookOutcome::NotApplicable => "is not applicable".to_owned(),
                    HookOutcome::Failed(how) => format!("failed {how}"),
                };
                self.write(&format!("{phase} hook {hook} {how} after {milliseconds} ms"));
            }
            Event::DatabaseSaving { database, directory } => {
                self.write(&format!("saving the database {database} to {directory}"));
            }
            Event::DatabaseSaved { file, bytes } => self.write(&format!("saved as {file}, {bytes} bytes")),
            Event::Migrating(database) => self.write(&format!("migrating the database {database}")),
            Event::MigrationSkipped(name, reason) => self.write(&format!("migration {name} skipped: {reason}")),
            Event::Migrated(name, Ok(())) => self.write(&format!("migration {name} applied")),
            Event::Migrated(name, Err(error)) => self.write(&format!("migration {name} failed: {error}")),
            Event::ServiceRestarting(service) => self.write(&format!("restarting {service}")),
            Event::ServiceUp { service, outage } => self.write(&format!("{service} is up, after {outage} ms")),
            Event::ServiceDown { service, reason, log } => {
                self.write(&format!("{service} is not up: {reason}"));
                for line in log {
                    self.write(&format!("{service}: {line}"));
                }
            }
            Event::ServiceSkipped(service, reason) => self.write(&format!("{service} is left alone: {reason}")),
            Event::OthersRestarting(services) => self.write(&format!("running replaced files: {}", services.join(" "))),
            Event::ManagerReexecuted(Ok(())) => self.write("systemd executed itself anew"),
            Event::ManagerReexecuted(Err(error)) => {
                self.write(&format!("systemd did not execute itself anew: {error}"));
            }
            Event::RestartRecommended(what) => {
                for (name, reason) in what {
                    self.write(&format!("restart recommended: {name}: {reason}"));
                }
            }
            Event::RebootRecommended(reasons) => {
                for reason in reasons {
                    self.write(&format!("reboot recommended: {reason}"));
                }
            }
            Event::Output { source, line } => self.write(&format!("{source}: {line}")),
            Event::Failed(text) => self.write(text),
            Event::Detached { unit } => {
                self.write(&format!("goes on as {}", unit.as_deref().unwrap_or("this process, deaf to its terminal")));
            }
            Event::Attention(text) => self.write(&format!("wants attention: {text}")),
            Event::Finished { exit, message, .. } => {
                self.write(&format!("finished with exit code {}: {message}", exit.code()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_time_and_its_source() {
        let mut log = Log { writer: Vec::new() };
        log.receive(&Event::Output { source: "apt-get".to_owned(), line: "Reading package lists...".to_owned() });
        let text = String::from_utf8(log.writer).expect("text");
        let (time, rest) = text.split_once(' ').expect("a time first");
        assert!(time.parse::<Timestamp>().is_ok(), "{time}");
        assert_eq!(rest, "apt-get: Reading package lists...\n");
    }
}
