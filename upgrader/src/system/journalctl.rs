//! Reads the log lines of services from journald.

use serde_json::Value;

use crate::system::command::Program;
use crate::system::systemd::Unit;

/// How many lines of a service's log are shown, and how many characters of each.
const LINES: usize = 5;
const CHARACTERS: usize = 200;

/// How many entries of the journal are searched.
const ENTRIES: usize = 200;

/// The lowest priority of systemd's messages about a failed unit: notice (syslog(3)). Its messages about starts and stops are
/// informational, and differ between versions.
const NOTICE: u8 = 5;

/// The fields of an entry that are read (systemd.journal-fields(7)): the message and the invocation of the unit.
const FIELDS: &str = "MESSAGE,PRIORITY,_SYSTEMD_UNIT,_SYSTEMD_INVOCATION_ID,INVOCATION_ID";

/// The last lines that a service logged, and that systemd logged of its failure, since it was last started: see [`Unit::invocation`]. None if
/// there are none, or if no journal is kept.
pub(crate) fn last_lines(unit: &Unit) -> Vec<String> {
    if unit.invocation.is_empty() {
        return Vec::new();
    }
    // journald may not have written the last messages of a process yet.
    let _ = Program::new("journalctl").arg("--sync").output();
    let query = Program::new("journalctl")
        .args(["--quiet", "--no-pager", "--output=json"])
        .args([format!("--output-fields={FIELDS}"), format!("--lines={ENTRIES}")])
        .args([format!("_SYSTEMD_UNIT={}", unit.id), "+".to_owned(), format!("UNIT={}", unit.id)]);
    query.output().map_or_else(|_| Vec::new(), |entries| last_readable(&said(&entries, unit)))
}

/// The messages of a unit since its last start, and systemd's messages about its failure, from entries as JSON, one a line.
///
/// journald looks up a process when it reads its message. For a process that has exited it still knows the unit, but not the invocation:
/// such a message belongs to the invocation of the entries before it.
fn said(entries: &str, unit: &Unit) -> String {
    let mut said = String::new();
    let mut is_last_start = false;
    for entry in entries.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let field = |name: &str| entry.get(name).and_then(Value::as_str);
        let (by, about) = (field("_SYSTEMD_INVOCATION_ID"), field("INVOCATION_ID"));
        if let Some(start) = about.or(by) {
            is_last_start = start == unit.invocation;
        }
        let is_urgent = || field("PRIORITY").and_then(|digit| digit.parse().ok()).is_some_and(|is: u8| is <= NOTICE);
        let is_by_it = field("_SYSTEMD_UNIT") == Some(&unit.id);
        if is_last_start && (is_by_it || is_urgent()) {
            said.push_str(&text(&entry["MESSAGE"]));
            said.push('\n');
        }
    }
    said
}

/// The text of a message. journald gives a message that is not UTF-8 as a list of bytes.
fn text(message: &Value) -> String {
    match message {
        Value::Array(bytes) => {
            let bytes = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok());
            String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
        }
        message => message.as_str().unwrap_or_default().to_owned(),
    }
}

/// The last lines of a text as a terminal can show them.
fn last_readable(text: &str) -> Vec<String> {
    let readable = |line: &str| -> String {
        line.chars()
            .take(CHARACTERS)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect::<String>()
            .trim_end()
            .to_owned()
    };
    let mut lines: Vec<String> = text.lines().rev().map(readable).filter(|line| !line.is_empty()).take(LINES).collect();
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_lines_are_shown_without_what_moves_a_cursor() {
        let text = format!("1\n2\n3\n4\n\n\u{1b}[2Jred\r\n6\n{}\n", "x".repeat(1000));
        let lines = last_readable(&text);
        assert_eq!(lines[..4], ["3", "4", " [2Jred", "6"]);
        assert_eq!(lines[4].len(), CHARACTERS);
    }

    #[test]
    fn the_last_words_of_who_is_gone_are_heard_and_those_of_an_earlier_start_are_not() {
        let unit = Unit { id: "a.service".to_owned(), invocation: "new".to_owned(), ..Unit::default() };
        let entries = r#"{"_SYSTEMD_UNIT":"a.service","_SYSTEMD_INVOCATION_ID":"old","PRIORITY":"3","MESSAGE":"long ago"}
{"_SYSTEMD_UNIT":"a.service","PRIORITY":"6","MESSAGE":"also long ago"}
{"_SYSTEMD_UNIT":"init.scope","INVOCATION_ID":"new","PRIORITY":"6","MESSAGE":"Starting a..."}
{"_SYSTEMD_UNIT":"a.service","_SYSTEMD_INVOCATION_ID":"new","PRIORITY":"6","MESSAGE":[104,105,255]}
{"_SYSTEMD_UNIT":"a.service","PRIORITY":"6","MESSAGE":"the licence has expired"}
no entry
{"_SYSTEMD_UNIT":"init.scope","INVOCATION_ID":"new","PRIORITY":"4","MESSAGE":"a: Failed"}
{"_SYSTEMD_UNIT":"a.service","_SYSTEMD_INVOCATION_ID":"new","MESSAGE":null}
"#;
        assert_eq!(said(entries, &unit), "hi\u{fffd}\nthe licence has expired\na: Failed\n\n");
    }

    proptest! {
        #[test]
        fn whatever_was_logged_a_few_lines_come_out(text: String) {
            let lines = last_readable(&text);
            prop_assert!(lines.len() <= LINES);
            prop_assert!(lines.iter().all(|line| !line.chars().any(char::is_control)));
        }
    }
}
