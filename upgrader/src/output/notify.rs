//! Runs the notification command of the settings at the end of a run.

use std::time::Duration;

use anyhow::Result;

use crate::config::settings::Notify;
use crate::model::report::Report;
use crate::printable;
use crate::system::command::Program;

const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Gives the command the report as JSON on its stdin and the result in its environment. Does nothing without a command.
pub(crate) fn run(notify: &Notify, report: &Report, line: &mut dyn FnMut(&str)) -> Result<()> {
    if notify.command.is_empty() {
        return Ok(());
    }
    let result = serde_json::to_value(report.result)?;
    Program::of_settings(&notify.command)?
        .env("UPGRADE_RESULT", result.as_str().unwrap_or_default())
        .env("UPGRADE_EXIT_CODE", report.exit_code.unwrap_or_default().to_string())
        .env("UPGRADE_SUMMARY", &*printable::line(&summary(report)))
        .time_limit(TIME_LIMIT)
        .feed(&printable::json_escaped(&serde_json::to_string_pretty(report)?), line)
}

/// `XiVO 1.2.1 -> 1.2.2: done`.
fn summary(report: &Report) -> String {
    let versions =
        report.plan.as_ref().map_or_else(String::new, |plan| format!(" {} -> {}", plan.installed, plan.candidate));
    format!("{}{versions}: {}", report.product, report.result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::report::RunResult;

    #[test]
    fn environment_and_stdin_have_the_same_result() {
        let report = Report { result: RunResult::NeedsHuman, exit_code: Some(5), ..Report::default() };
        let script = "echo \"$UPGRADE_RESULT $UPGRADE_EXIT_CODE $UPGRADE_SUMMARY\"; grep '\"result\"'";
        let notify = Notify { command: ["sh", "-c", script].map(str::to_owned).to_vec() };
        let mut lines = Vec::new();
        run(&notify, &report, &mut |line| lines.push(line.trim().to_owned())).expect("it runs");
        assert_eq!(lines, ["needs-human 5 : failed, needs a human", "\"result\": \"needs-human\","]);
        assert!(run(&Notify::default(), &report, &mut |_| panic!("there is no command")).is_ok());
    }
}
