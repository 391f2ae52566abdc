//! Colours, and the progress bar.

use std::io::{IsTerminal as _, stderr, stdout};

use rustix::termios::tcgetwinsize;

/// In characters.
const BAR: usize = 20;

/// The width of a terminal that does not report one.
const USUAL_WIDTH: usize = 80;

/// What the screen supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    /// A terminal, on which a line can be overwritten.
    Terminal {
        /// In characters.
        width: usize,
        /// Whether to use colours (<https://no-color.org>).
        colour: bool,
    },
}

impl Style {
    pub(crate) fn of_this_process(on_stderr: bool) -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb" || terminal.is_empty());
        let (terminal, size) = if on_stderr {
            (stderr().is_terminal(), tcgetwinsize(stderr()))
        } else {
            (stdout().is_terminal(), tcgetwinsize(stdout()))
        };
        if !terminal || dumb {
            return Self::Plain;
        }
        let width = size.map_or(0, |size| usize::from(size.ws_col));
        Self::Terminal { width: if width == 0 { USUAL_WIDTH } else { width }, colour: !is_set("NO_COLOR") }
    }

    /// The width of the terminal; none if lines cannot be overwritten.
    pub(crate) fn width(self) -> Option<usize> {
        match self {
            Self::Plain => None,
            Self::Terminal { width, .. } => Some(width),
        }
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.coloured("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.coloured("1;31", text)
    }

    /// Text between SGR sequences (ECMA-48).
    fn coloured(self, code: &str, text: &str) -> String {
        match self {
            Self::Terminal { colour: true, .. } => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// `[#####               ]`
pub(super) fn bar(percent: u8) -> String {
    let full = usize::from(percent.min(100)) * BAR / 100;
    format!("[{}{}]", "#".repeat(full), " ".repeat(BAR - full))
}
