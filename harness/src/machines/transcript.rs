//! A command with its screen and exit code.

use std::fmt;

/// A command and its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// The command, as it was typed.
    pub command: String,
    /// Without a terminal, stdout and stderr as they came. At a terminal, what is visible at the end, answers included.
    pub screen: String,
    /// The exit code, or [`HUNG_UP`].
    pub exit: i64,
}

/// The exit code of a command whose terminal hung up before its end.
pub const HUNG_UP: i64 = -1;

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "$ {}", self.command)?;
        f.write_str(&self.screen)?;
        if !self.screen.is_empty() && !self.screen.ends_with('\n') {
            writeln!(f)?;
        }
        if self.exit == HUNG_UP {
            return writeln!(f, "[the terminal went away]");
        }
        writeln!(f, "[exit code {}]", self.exit)
    }
}

/// A document without durations, which differ from run to run.
#[must_use]
pub fn without_times(document: &str) -> String {
    const BEGINNINGS: [&str; 2] = ["It took ", "Last time they were out of service for "];
    let line = |line: &str| {
        let beginning = BEGINNINGS.iter().find(|beginning| line.starts_with(**beginning));
        beginning.map_or_else(|| format!("{line}\n"), |beginning| format!("{beginning}...\n"))
    };
    let lines: String = document.lines().map(line).collect();
    if document.ends_with('\n') { lines } else { lines.trim_end_matches('\n').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_something_took_is_left_out() {
        assert_eq!(without_times("a\nIt took 8 s; all is well\nend"), "a\nIt took ...\nend");
    }
}
