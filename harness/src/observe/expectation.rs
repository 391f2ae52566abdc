//! The expected result of a run.

use std::fmt;

use serde::Deserialize;

/// What is expected of a run, as far as it is said; what is not said is as with nothing in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expectation {
    /// The exit code.
    pub exit: Option<i64>,
    /// What has become of the machine.
    pub end: Option<End>,
    /// What the screen has to say, each somewhere.
    pub says: Vec<String>,
    /// Packages that keep the version that they have.
    pub keeps: Vec<String>,
    /// Services that do not run afterwards.
    pub down: Vec<String>,
    /// What differs in the end from a machine on which the release was installed: beginnings of the lines that name it. Each has to
    /// differ: an exception that nothing needs hides something one day.
    pub differs: Vec<String>,
}

/// What can have become of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It has the new release, and its services run it.
    Upgraded,
    /// It is as it was, and its services were never touched.
    Unchanged,
    /// It was on its way to the new release, and is as it was.
    RolledBack,
    /// It is neither: the admin has to repair something and start again.
    Stuck,
}

impl Expectation {
    /// This, as far as it says something, and else what `other` says. Exceptions of both count.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let both = |ours: &[String], theirs: &[String]| ours.iter().chain(theirs).cloned().collect();
        Self {
            exit: self.exit.or(other.exit),
            end: self.end.or(other.end),
            // What the other would say is not known to come as well.
            says: if self.exit.is_some() { self.says.clone() } else { both(&self.says, &other.says) },
            keeps: both(&self.keeps, &other.keeps),
            down: both(&self.down, &other.down),
            differs: both(&self.differs, &other.differs),
        }
    }

    /// The exit code that is expected.
    pub fn exit(&self) -> i64 {
        self.exit.unwrap_or(0)
    }

    /// What is expected to have become of the machine.
    pub fn end(&self) -> End {
        self.end.unwrap_or(End::Upgraded)
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.end() {
            End::Upgraded => "the machine has the new release, and its services run it",
            End::Unchanged => "the machine is as it was",
            End::RolledBack => "everything is restored",
            End::Stuck => "the admin has to repair the machine",
        };
        if let Some(exit) = self.exit {
            write!(f, "exit code {exit}; ")?;
        }
        f.write_str(end)?;
        for (what, names) in [("keeping their versions", &self.keeps), ("services that do not run", &self.down)] {
            if !names.is_empty() {
                write!(f, "; {what}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}
