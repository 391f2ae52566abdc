use std::io::{BufRead, IsTerminal as _, Write, stdin};

use rustix::termios::{QueueSelector, tcflush};

/// Forgets what was typed before there was a question: an Enter meant for something else agrees to nothing.
pub fn forget_typed_ahead() {
    if stdin().is_terminal() {
        let _ = tcflush(stdin(), QueueSelector::IFlush);
    }
}

/// Asks a question that Enter answers with yes.
///
/// Yes is an empty line, `y` or `yes`. Anything else is no, and so are the end of the input and an input that is closed:
/// nobody who is not there agrees to anything.
pub fn ask(question: &str, input: &mut dyn BufRead, screen: &mut dyn Write) -> bool {
    let _ = write!(screen, "{question} [Y/n] ").and_then(|()| screen.flush());
    let mut answer = Vec::new();
    let read = input.read_until(b'\n', &mut answer);
    let ended = answer.last() != Some(&b'\n');
    if ended {
        // The person's own Enter is missing on the screen.
        let _ = writeln!(screen);
    }
    let Ok(count) = read else { return false };
    let answer = String::from_utf8_lossy(&answer).trim().to_ascii_lowercase();
    match answer.as_str() {
        "" => count > 0 && !ended,
        "y" | "yes" => true,
        _ => false,
    }
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
