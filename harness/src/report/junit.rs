//! The report in the `JUnit` format.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use quick_junit::{NonSuccessKind, Report as Document, TestCase, TestCaseStatus, TestSuite};

use super::{INTERRUPTED, Report};
use crate::matrix::record::Record;

/// The report as `JUnit` has it: a suite is a scenario, a test case a cell. What no XML can carry is left out.
pub(super) fn document(report: &Report) -> Result<String> {
    let mut document = Document::new("matrix");
    let mut scenarios: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for cell in &report.cells {
        scenarios.entry(&cell.record.place.scenario).or_default().push(&cell.record);
    }
    for (scenario, records) in scenarios {
        let mut suite = TestSuite::new(scenario);
        suite.set_time(records.iter().map(|record| Duration::from_millis(record.took)).sum());
        suite.add_test_cases(records.into_iter().map(case));
        document.add_test_suite(suite);
    }
    if !report.interrupted.is_empty() {
        let mut suite = TestSuite::new("interrupted");
        for cell in &report.interrupted {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_message(INTERRUPTED);
            suite.add_test_case(TestCase::new(cell.as_str(), status));
        }
        document.add_test_suite(suite);
    }
    Ok(document.to_string()?)
}

fn case(record: &Record) -> TestCase {
    let status = match record.failures.as_slice() {
        [] => TestCaseStatus::success(),
        failures @ [first, ..] => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            let difference = record.difference.iter().map(String::as_str);
            let text: Vec<&str> = failures.iter().map(String::as_str).chain(difference).collect();
            status.set_message(first.as_str()).set_description(text.join("\n"));
            status
        }
    };
    let mut case = TestCase::new(record.cell.as_str(), status);
    case.set_classname(record.place.scenario.as_str());
    case.set_time(Duration::from_millis(record.took));
    case.set_system_out(record.screen.as_str());
    case.add_property(("again", record.again.as_str()));
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn it_can_be_read_back() {
        let mut report = report();
        report.cells[1].record.screen = "bell \u{7} & ]]> </system-out> <é>".to_owned();
        report.cells[1].record.difference = Some("-asterisk OK\n+asterisk FAILED".to_owned());
        let document = Document::deserialize_from_str(&document(&report).unwrap()).unwrap();
        assert_eq!((document.tests, document.failures, document.errors), (3, 1, 1));
        let [upgrade, interrupted] = document.test_suites.as_slice() else { panic!("{document:?}") };
        assert_eq!((upgrade.name.as_str(), interrupted.name.as_str()), ("upgrade", "interrupted"));
        let failed = &upgrade.test_cases[1];
        assert_eq!(failed.system_out.as_ref().unwrap().as_str(), "bell  & ]]> </system-out> <é>");
        assert_eq!(failed.properties[0].value.as_str(), "cargo nextest run upgrade::trixie");
        let TestCaseStatus::NonSuccess { message, description, .. } = &failed.status else { panic!("{failed:?}") };
        assert_eq!(message.as_ref().unwrap().as_str(), "asterisk is down.");
        let text = description.as_ref().unwrap().as_str();
        assert_eq!(text, "asterisk is down.\n-asterisk OK\n+asterisk FAILED");
    }
}
