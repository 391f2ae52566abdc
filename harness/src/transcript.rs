use std::fmt;

/// A command and what a person saw of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// The command, as it was typed.
    pub command: String,
    /// Without a terminal, stdout and stderr as they came. At a terminal, what a person sees at the end, answers included: what
    /// was overwritten or erased is not in it.
    pub screen: String,
    /// The exit code, or [`HUNG_UP`].
    pub exit: i64,
}

/// The exit code of a command whose terminal went away before its end: nobody is there to hear of another one.
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

/// A document without what is never the same twice: how long something took, what the clock shows, numbers of processes.
#[must_use]
pub fn without_times(document: &str) -> String {
    const BEGINNINGS: [&str; 2] = ["It took ", "Last time they were out of service for "];
    const ASIDES: [&str; 3] = ["(it shows ", "(invalid ", "(process "];
    let line = |line: &str| {
        if let Some(beginning) = BEGINNINGS.iter().find(|beginning| line.starts_with(**beginning)) {
            return format!("{beginning}...\n");
        }
        let mut line = line.to_owned();
        for aside in ASIDES {
            if let Some((before, (_, after))) =
                line.split_once(aside).and_then(|(before, rest)| Some((before, rest.split_once(')')?)))
            {
                line = format!("{before}{aside}...){after}");
            }
        }
        line + "\n"
    };
    let lines: String = document.lines().map(line).collect();
    if document.ends_with('\n') { lines } else { lines.trim_end_matches('\n').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_the_same_twice_is_left_out() {
        let document = "Waiting for apt (process 85), at most 120 s\nIt took 8 s; all is well\n(a) too old (invalid since 2d): set it (it shows\nend";
        let without = "Waiting for apt (process ...), at most 120 s\nIt took ...\n(a) too old (invalid ...): set it (it shows\nend";
        assert_eq!(without_times(document), without);
    }
}
