use std::fmt;

/// A command and what a person saw of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// The command, as it was typed.
    pub command: String,
    /// The screen: stdout and stderr as they came, answers included where there was a terminal.
    pub screen: String,
    /// The exit code.
    pub exit: i64,
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "$ {}", self.command)?;
        f.write_str(&self.screen)?;
        if !self.screen.is_empty() && !self.screen.ends_with('\n') {
            writeln!(f)?;
        }
        writeln!(f, "[exit code {}]", self.exit)
    }
}
