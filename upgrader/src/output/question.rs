//! The question before the machine is changed.

use std::io::{BufRead, IsTerminal as _, Write, stdin};

use rustix::termios::{QueueSelector, tcflush};

use crate::context::Options;
use crate::printable;

/// The answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Yes,
    RollBack,
    No,
}

/// Asks a question on the terminal. Enter means yes; `r` means a rollback if `rollback` says what that does.
pub(crate) fn prompt(question: &str, rollback: Option<&str>, options: &Options) -> Choice {
    // An Enter that was typed before the question is not an answer to it.
    if stdin().is_terminal() {
        let _ = tcflush(stdin(), QueueSelector::IFlush);
    }
    choose(question, rollback, &mut stdin().lock(), &mut options.screen())
}

/// Yes is an empty line, `y` or `yes`. Everything else is no, also the end of the input and a closed input.
fn choose(question: &str, rollback: Option<&str>, input: &mut dyn BufRead, screen: &mut dyn Write) -> Choice {
    let answers = rollback.map_or_else(|| "[Y/n]".to_owned(), |rollback| format!("[Y/n/r, {rollback}]"));
    let _ = write!(screen, "{} ", printable::line(&format!("{question} {answers}"))).and_then(|()| screen.flush());
    let mut answer = Vec::new();
    let read = input.read_until(b'\n', &mut answer);
    let has_enter = answer.ends_with(b"\n");
    if !has_enter {
        // The cursor is still behind the question.
        let _ = writeln!(screen);
    }
    match String::from_utf8_lossy(&answer).trim().to_ascii_lowercase().as_str() {
        _ if read.is_err() => Choice::No,
        "" if has_enter => Choice::Yes,
        "y" | "yes" => Choice::Yes,
        "r" if rollback.is_some() => Choice::RollBack,
        _ => Choice::No,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answered(input: &[u8]) -> bool {
        choose("Go?", None, &mut &input[..], &mut Vec::new()) == Choice::Yes
    }

    #[test]
    fn enter_and_yes_are_yes_and_everything_else_is_no() {
        for yes in ["\n", "y\n", "Y\n", "yes\n", " YES \n", "y"] {
            assert!(answered(yes.as_bytes()), "{yes:?}");
        }
        for no in [&b""[..], b"n\n", b"no\n", b"yep\n", b"nyes\n", b"\xff\n", b"  ", b"\0\n"] {
            assert!(!answered(no), "{no:?}");
        }
    }

    #[test]
    fn a_rollback_is_an_answer_only_if_it_is_possible() {
        let chosen = |input: &str, back| choose("Go?", back, &mut input.as_bytes(), &mut Vec::new());
        for (input, with, without) in [
            ("\n", Choice::Yes, Choice::Yes),
            ("YES\n", Choice::Yes, Choice::Yes),
            ("r\n", Choice::RollBack, Choice::No),
            ("R", Choice::RollBack, Choice::No),
            ("n\n", Choice::No, Choice::No),
            ("", Choice::No, Choice::No),
        ] {
            assert_eq!((chosen(input, Some("r rolls back to 1")), chosen(input, None)), (with, without), "{input:?}");
        }
    }

    #[test]
    fn a_closed_input_is_no() {
        // Reading from it fails with EBADF, as from a closed stdin.
        let closed = std::fs::File::options().write(true).open("/dev/null").expect("there");
        let answer = choose("Go?", None, &mut std::io::BufReader::new(closed), &mut Vec::new());
        assert_eq!(answer, Choice::No);
    }

    proptest! {
        #[test]
        fn only_yes_in_some_spelling_is_yes(
            answer in prop::collection::vec(prop_oneof![1 => any::<u8>(), 5 => prop::sample::select(b"yYeEsS \n".as_slice())], 0..5),
        ) {
            let line: Vec<u8> = answer.iter().copied().take_while(|byte| *byte != b'\n').collect();
            let said: String = String::from_utf8_lossy(&line).split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
            let entered = line.len() < answer.len();
            prop_assert_eq!(answered(&answer), said == "y" || said == "yes" || (said.is_empty() && entered));
        }

        #[test]
        fn any_other_text_is_no(answer in "[^\n]{0,6}[^\\syYeEsS][^\n]{0,6}") {
            let entered = format!("{answer}\n");
            prop_assert!(!answered(entered.as_bytes()));
        }
    }
}
