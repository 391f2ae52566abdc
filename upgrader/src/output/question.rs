//! The question.

use std::io::{BufRead, IsTerminal as _, Write, stdin};

use rustix::termios::{QueueSelector, tcflush};

/// Forgets what was typed before there was a question: an Enter meant for something else agrees to nothing.
pub(crate) fn discard_typed_ahead() {
    if stdin().is_terminal() {
        let _ = tcflush(stdin(), QueueSelector::IFlush);
    }
}

/// Asks a question that Enter answers with yes.
///
/// Yes is an empty line, `y` or `yes`. Anything else is no, and so are the end of the input and an input that is closed:
/// nobody who is not there agrees to anything.
pub(crate) fn ask(question: &str, input: &mut dyn BufRead, screen: &mut dyn Write) -> bool {
    matches!(answer(&format!("{question} [Y/n] "), input, screen).as_deref(), Some("" | "y" | "yes"))
}

/// What becomes of something that was cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// It goes on.
    Yes,
    /// It is undone.
    RollBack,
    /// Nothing happens now.
    Leave,
}

/// Asks a question as [`ask`] does, that `r` answers with going back, if there is a way `back`: what that means.
pub(crate) fn choose(question: &str, back: Option<&str>, input: &mut dyn BufRead, screen: &mut dyn Write) -> Choice {
    let answers = back.map_or_else(|| "[Y/n]".to_owned(), |back| format!("[Y/n/r, {back}]"));
    match answer(&format!("{question} {answers} "), input, screen).as_deref() {
        Some("" | "y" | "yes") => Choice::Yes,
        Some("r") if back.is_some() => Choice::RollBack,
        _ => Choice::Leave,
    }
}

/// What was answered, in lower case; an empty line only if it ended. None at the end of the input, and of one that is closed.
fn answer(prompt: &str, input: &mut dyn BufRead, screen: &mut dyn Write) -> Option<String> {
    let _ = write!(screen, "{prompt}").and_then(|()| screen.flush());
    let mut answer = Vec::new();
    let read = input.read_until(b'\n', &mut answer);
    let ended = answer.last() != Some(&b'\n');
    if ended {
        // The person's own Enter is missing on the screen.
        let _ = writeln!(screen);
    }
    let count = read.ok()?;
    let answer = String::from_utf8_lossy(&answer).trim().to_ascii_lowercase();
    (!answer.is_empty() || (count > 0 && !ended)).then_some(answer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answered(input: &[u8]) -> bool {
        ask("Go?", &mut &input[..], &mut Vec::new())
    }

    #[test]
    fn enter_and_yes_are_yes() {
        for answer in ["\n", "y\n", "Y\n", "yes\n", " YES \n", "y"] {
            assert!(answered(answer.as_bytes()), "{answer:?}");
        }
    }

    #[test]
    fn everything_else_is_no_and_so_is_silence() {
        for answer in [&b""[..], b"n\n", b"no\n", b"yep\n", b"nyes\n", b"\xff\n", b"  ", b"\0\n"] {
            assert!(!answered(answer), "{answer:?}");
        }
    }

    #[test]
    fn going_back_is_an_answer_only_where_there_is_a_way_back() {
        let chosen = |input: &str, back| choose("Go?", back, &mut input.as_bytes(), &mut Vec::new());
        for (input, with, without) in [
            ("\n", Choice::Yes, Choice::Yes),
            ("YES\n", Choice::Yes, Choice::Yes),
            ("r\n", Choice::RollBack, Choice::Leave),
            ("R", Choice::RollBack, Choice::Leave),
            ("n\n", Choice::Leave, Choice::Leave),
            ("", Choice::Leave, Choice::Leave),
        ] {
            assert_eq!((chosen(input, Some("r goes back to 1")), chosen(input, None)), (with, without), "{input:?}");
        }
    }

    #[test]
    fn a_closed_input_is_no() {
        struct Closed;
        impl std::io::Read for Closed {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::from_raw_os_error(9))
            }
        }
        assert!(!ask("Go?", &mut std::io::BufReader::new(Closed), &mut Vec::new()));
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
        fn whoever_types_something_else_says_no(answer in "[^\n]{0,6}[^\\syYeEsS][^\n]{0,6}") {
            let entered = format!("{answer}\n");
            prop_assert!(!answered(entered.as_bytes()));
        }
    }
}
