use crate::command::Program;

/// How many lines of a service's log are shown, and how many characters of each.
const LINES: usize = 5;
const CHARACTERS: usize = 200;

/// Priorities of what systemd says of a unit when something went wrong (syslog(3)): notice and more urgent. That it starts and
/// stops is information, in other words and at other moments in each version.
const URGENT: [&str; 6] = ["PRIORITY=0", "PRIORITY=1", "PRIORITY=2", "PRIORITY=3", "PRIORITY=4", "PRIORITY=5"];

/// The last lines that a service logged, and that systemd logged of its failure, from one start to the next stop: see
/// [`crate::systemd::Unit::invocation`]. None if there are none, or if no journal is kept.
#[must_use]
pub fn last_lines(invocation: &str) -> Vec<String> {
    if invocation.is_empty() {
        return Vec::new();
    }
    // What a process said just before it died may still be on its way.
    let _ = Program::new("journalctl").arg("--sync").output();
    let (by_it, about_it) = (format!("_SYSTEMD_INVOCATION_ID={invocation}"), format!("INVOCATION_ID={invocation}"));
    let query = Program::new("journalctl")
        .args(["--quiet", "--no-pager", "--output=cat", "--lines"])
        .arg(LINES.to_string())
        .args([by_it.as_str(), "+", about_it.as_str()])
        .args(URGENT);
    query.output().map_or_else(|_| Vec::new(), |text| last_readable(&text))
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

    proptest! {
        #[test]
        fn whatever_was_logged_a_few_lines_come_out(text: String) {
            let lines = last_readable(&text);
            prop_assert!(lines.len() <= LINES);
            prop_assert!(lines.iter().all(|line| !line.chars().any(char::is_control)));
        }
    }
}
