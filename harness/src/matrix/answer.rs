//! The answers to the question of a run.

use serde::Deserialize;

use crate::machines::machine::Command;
use crate::observe::expectation::{End, Expectation};

/// The question, as it ends on the screen.
pub const QUESTION: &str = "[Y/n] ";

/// How the question is answered whether to upgrade.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The upgrader does not ask: `--yes`.
    #[default]
    Unasked,
    /// Types yes.
    Yes,
    /// Presses Enter.
    Enter,
    /// Types no.
    No,
    /// Presses Ctrl-D.
    EndOfInput,
    /// There is no terminal.
    NoTerminal,
}

impl Answer {
    /// As it is written in data.
    pub fn key(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Yes => "yes",
            Self::Enter => "enter",
            Self::No => "no",
            Self::EndOfInput => "end-of-input",
            Self::NoTerminal => "no-terminal",
        }
    }

    /// The answer in words, for the report.
    pub fn explained(self) -> &'static str {
        match self {
            Self::Unasked => "`xivo-upgrade --yes` is started, which does not ask.",
            Self::Yes => "`xivo-upgrade` is started at a terminal, and the question is answered with yes.",
            Self::Enter => "`xivo-upgrade` is started at a terminal, and the question is answered with Enter.",
            Self::No => "`xivo-upgrade` is started at a terminal, and the question is answered with no.",
            Self::EndOfInput => "`xivo-upgrade` is started at a terminal, and the question is answered with Ctrl-D.",
            Self::NoTerminal => "`xivo-upgrade` is started without --yes and without a terminal.",
        }
    }

    /// The arguments of the upgrader.
    pub fn arguments(self) -> &'static [&'static str] {
        if self == Self::Unasked { &["--yes"] } else { &[] }
    }

    /// The command of the upgrader, with the answer.
    pub fn given(self, command: Command<'_>) -> Command<'_> {
        match self {
            Self::Unasked | Self::NoTerminal => command,
            Self::Yes => command.answer(QUESTION, "y\n"),
            Self::Enter => command.answer(QUESTION, "\n"),
            Self::No => command.answer(QUESTION, "n\n"),
            Self::EndOfInput => command.answer(QUESTION, "\u{4}"),
        }
    }

    /// What is expected of a run that comes to the question.
    pub fn expectation(self) -> Expectation {
        match self {
            Self::Unasked | Self::Yes | Self::Enter => Expectation::default(),
            Self::No | Self::EndOfInput | Self::NoTerminal => {
                Expectation { exit: Some(3), end: Some(End::Unchanged), ..Expectation::default() }
            }
        }
    }
}
