//! The reports of past runs.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::{Timestamp, Unit};

use crate::files;
use crate::model::event::{Event, Subscriber};
use crate::model::report::{Report, RunResult, seconds};
use crate::model::time;
use crate::paths::Paths;
use crate::printable;
use crate::system::entries;
use crate::system::remove_file;

/// How many runs `history` shows on a screen.
const SHOWN: usize = 20;

/// Saves the report of a run: when it detaches from the terminal, and when it is over. A report without an end is of an interrupted
/// run.
#[derive(Debug)]
pub(crate) struct HistoryWriter {
    directory: PathBuf,
    report: Report,
}

impl HistoryWriter {
    pub(crate) fn new(paths: &Paths, report: Report) -> Self {
        Self { directory: paths.history(), report }
    }

    fn save(&self) -> Result<()> {
        files::make_own(&self.directory)?;
        let started = self.report.started.unwrap_or_default();
        let path = self.directory.join(format!("{}.json", time::stamp(started)));
        let text = printable::json_escaped(&serde_json::to_string_pretty(&self.report)?);
        // Quotes the output of programs, which may be private.
        Ok(files::replace(&path, 0o600, text.as_bytes())?)
    }
}

impl Subscriber for HistoryWriter {
    fn receive(&mut self, event: &Event) {
        self.report.receive(event);
        if matches!(event, Event::Detached { .. } | Event::Finished { .. }) {
            // A full disk must not end an upgrade.
            let _ = self.save();
        }
    }
}

/// The reports of past runs, the newest first. Skips files that are no report.
pub(crate) fn read(directory: &Path) -> Result<Vec<Report>> {
    // In order of their names, which are times.
    let mut paths = entries(directory).with_context(|| directory.display().to_string())?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    let report = |path: &PathBuf| serde_json::from_slice(&files::content(path).ok()?).ok();
    Ok(paths.iter().rev().filter_map(report).collect())
}

/// How long services were down in the last run that restarted all of them, in milliseconds.
pub(crate) fn last_outage(directory: &Path) -> Option<u64> {
    let is_typical = |report: &Report| !report.services.is_empty() && report.services.iter().all(|service| service.up);
    read(directory).ok()?.iter().find(|report| is_typical(report)).map(Report::outage_ms)
}

/// Removes the reports of runs that ended before `oldest`, except the newest one.
pub(crate) fn prune(directory: &Path, oldest: Timestamp) -> Result<()> {
    let limit = format!("{}.json", time::stamp(oldest));
    let mut names = files::names_in(directory).unwrap_or_default();
    names.sort();
    names.pop();
    for name in names.iter().filter(|name| name.as_encoded_bytes() < limit.as_bytes()) {
        remove_file(&directory.join(name))?;
    }
    Ok(())
}

/// One line a run.
pub(crate) fn render(reports: &[Report], under_way: bool, out: &mut dyn Write) -> std::io::Result<()> {
    if reports.is_empty() {
        return writeln!(out, "No upgrade yet.");
    }
    for (index, report) in reports.iter().take(SHOWN).enumerate() {
        writeln!(out, "{}", line(report, under_way && index == 0))?;
    }
    if reports.len() > SHOWN {
        writeln!(out, "… and {} earlier ones (--json has them all)", reports.len() - SHOWN)?;
    }
    Ok(())
}

/// `2026-11-22 15:48  1.2.1 -> 1.2.2  done, 12 s, out of service for 0.41 s`, times in UTC as in the log.
pub(crate) fn line(report: &Report, under_way: bool) -> String {
    let started = report.started.map_or_else(|| "?".to_owned(), time::minute);
    let versions = report.plan.as_ref().map_or_else(String::new, |plan| {
        if plan.installed == plan.candidate {
            plan.installed.clone()
        } else {
            format!("{} -> {}", plan.installed, plan.candidate)
        }
    });
    let result = match report.result {
        RunResult::Unfinished if under_way => "under way".to_owned(),
        RunResult::Unfinished => {
            let step = report.step.map_or_else(String::new, |step| format!(" at the step {step}"));
            format!("interrupted{step}")
        }
        result => result.to_string(),
    };
    let span = report.started.zip(report.ended).map(|(started, ended)| ended.duration_since(started));
    let took = span.and_then(|span| span.round(Unit::Second).ok()).map(|span| format!(", {} s", span.as_secs()));
    let outage = match report.outage_ms() {
        0 => String::new(),
        milliseconds => format!(", out of service for {}", seconds(milliseconds)),
    };
    let line = format!("{started}  {versions:<16}  {result}{}{outage}", took.unwrap_or_default());
    printable::line(&line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::Plan;
    use crate::model::report::ServiceReport;
    use crate::model::step::Step;
    use std::fs;

    fn report(hour: u8, result: RunResult) -> Report {
        let time = |minute: u8| format!("2026-11-22T{hour:02}:{minute:02}:00Z").parse().ok();
        Report {
            started: time(10),
            ended: if result == RunResult::Unfinished { None } else { time(12) },
            result,
            step: Some(Step::Packages),
            plan: Some(Plan { installed: "1.2.1".to_owned(), candidate: "1.2.2".to_owned(), ..Plan::default() }),
            services: vec![ServiceReport { name: "nginx".to_owned(), up: true, outage_ms: Some(412), reason: None }],
            ..Report::default()
        }
    }

    #[test]
    fn each_run_is_a_line_and_one_without_an_end_was_interrupted() {
        let reports =
            [report(14, RunResult::Unfinished), report(13, RunResult::Unfinished), report(12, RunResult::Done)];
        let mut out = Vec::new();
        render(&reports, true, &mut out).expect("written");
        insta::assert_snapshot!(String::from_utf8(out).expect("text"), @r#"
        2026-11-22 14:10  1.2.1 -> 1.2.2    under way, out of service for 0.41 s
        2026-11-22 13:10  1.2.1 -> 1.2.2    interrupted at the step packages, out of service for 0.41 s
        2026-11-22 12:10  1.2.1 -> 1.2.2    done, 120 s, out of service for 0.41 s
        "#);
    }

    #[test]
    fn saved_reports_are_read_newest_first_and_pruned() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        assert_eq!(read(&paths.history()).expect("absent is empty"), []);
        for hour in [9, 11, 10] {
            HistoryWriter::new(&paths, report(hour, RunResult::Done)).save().expect("saved");
        }
        fs::write(paths.history().join("99990101T000000Z.json"), "{ nonsense").expect("written");
        let hours = |reports: Vec<Report>| -> Vec<String> {
            reports.iter().filter_map(|report| Some(report.started?.strftime("%H").to_string())).collect()
        };
        assert_eq!(hours(read(&paths.history()).expect("readable")), ["11", "10", "09"]);
        assert_eq!(last_outage(&paths.history()), Some(412));
        fs::remove_file(paths.history().join("99990101T000000Z.json")).expect("removed");
        prune(&paths.history(), "2026-11-22T10:30:00Z".parse().expect("a time")).expect("removed");
        assert_eq!(hours(read(&paths.history()).expect("readable")), ["11"]);
        prune(&paths.history(), "2027-01-01T00:00:00Z".parse().expect("a time")).expect("removed");
        assert_eq!(hours(read(&paths.history()).expect("readable")), ["11"], "the last one stays");
    }
}
