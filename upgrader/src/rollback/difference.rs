//! What is found, in words.

use std::fmt;

use super::{Aspect, Damage, PathChange, PathDifference};

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{} is missing", path.display()),
            Self::Corrupt(path) => write!(f, "{} is damaged", path.display()),
            Self::EditedInPlace(path) => write!(f, "{} was edited in place", path.display()),
        }
    }
}

impl PathDifference {
    /// True if somebody would miss something. A time alone is that of a directory in which something else changed, or of a file that was
    /// written as it was.
    #[must_use]
    pub fn matters(&self) -> bool {
        self.change != PathChange::Aspects(vec![Aspect::Time])
    }
}

impl fmt::Display for PathDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.change)
    }
}

impl fmt::Display for PathChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added => f.write_str("new"),
            Self::Removed => f.write_str("gone"),
            Self::Type => f.write_str("something else"),
            Self::Aspects(aspects) => {
                for (index, aspect) in aspects.iter().enumerate() {
                    write!(f, "{}{aspect}", if index == 0 { "other " } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Content => "content",
            Self::Target => "target",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Xattrs => "extended attributes",
            Self::Time => "time",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_said_in_words() {
        let said = |change| PathDifference { path: "/etc/a".into(), change }.to_string();
        assert_eq!(said(PathChange::Added), "/etc/a: new");
        assert_eq!(said(PathChange::Aspects(vec![Aspect::Content, Aspect::Mode])), "/etc/a: other content, mode");
        assert_eq!(Damage::Missing("/usr/a".into()).to_string(), "/usr/a is missing");
    }
}
