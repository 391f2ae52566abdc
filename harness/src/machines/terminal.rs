//! A terminal emulator, which gives the final screen of a program's output.

use std::num::NonZeroU16;

use anstream::adapter::StripBytes;
use anyhow::{Result, ensure};
use vt100::Parser;

/// The terminal's height in lines: more than anything here prints, so that nothing scrolls away.
pub const ROWS: NonZeroU16 = NonZeroU16::new(1000).expect("not zero");

/// The terminal's width in characters.
pub const COLUMNS: NonZeroU16 = NonZeroU16::new(200).expect("not zero");

/// The terminal's name in terminfo(5), for `TERM`.
pub const NAME: &str = "xterm";

/// The text that was printed, with plain ends of lines.
#[must_use]
pub fn text(printed: &[u8]) -> String {
    String::from_utf8_lossy(printed).replace("\r\n", "\n")
}

/// A terminal: what was printed, and what of it is visible.
pub struct Terminal {
    parser: Parser,
    strip: StripBytes,
    /// Without escape sequences.
    printed: Vec<u8>,
}

impl Default for Terminal {
    fn default() -> Self {
        Self { parser: Parser::new(ROWS, COLUMNS, 0), strip: StripBytes::new(), printed: Vec::new() }
    }
}

impl Terminal {
    /// Adds bytes as they come. An escape sequence may come in pieces.
    pub fn add(&mut self, bytes: &[u8]) {
        self.parser.process(bytes);
        for plain in self.strip.strip_next(bytes) {
            self.printed.extend_from_slice(plain);
        }
    }

    /// Everything that was ever printed, escape sequences removed, also what was overwritten since.
    #[must_use]
    pub fn printed(&self) -> String {
        text(&self.printed)
    }

    /// What is visible now. A line that is wider than the terminal is one line; a line ends where the last character was
    /// written that was not erased. Fails if lines may have scrolled away.
    pub fn seen(&self) -> Result<String> {
        let screen = self.parser.screen();
        let (cursor, _) = screen.cursor_position();
        ensure!(cursor + 1 < ROWS.get(), "the screen has more than {ROWS} lines:\n{}", screen.contents());
        let rows: Vec<String> = screen.rows(0, COLUMNS.get()).take(usize::from(cursor) + 1).collect();
        let empty = rows.iter().rev().take_while(|row| row.is_empty()).count();
        // The contents end with the last character; the lines between it and the cursor are seen as well.
        let mut seen = screen.contents();
        seen.push_str(&"\n".repeat(empty.min(usize::from(cursor))));
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(pieces: &[&str]) -> Terminal {
        let mut terminal = Terminal::default();
        for piece in pieces {
            terminal.add(piece.as_bytes());
        }
        terminal
    }

    #[test]
    fn characters_and_ends_of_lines_may_come_in_halves() {
        let mut terminal = Terminal::default();
        for byte in "a\r\né\u{fffd}b\r\n".as_bytes() {
            terminal.add(std::slice::from_ref(byte));
        }
        assert_eq!(terminal.printed(), "a\né\u{fffd}b\n");
        assert!(text(b"\xffz").ends_with("\u{fffd}z"), "invalid UTF-8 does not block the rest");
    }

    #[test]
    fn a_bar_that_was_erased_is_not_seen_and_was_printed() {
        let terminal =
            terminal(&["Down\r\n\u{1b}[32m##", "--\u{1b}", "[0m 50 %\r\u{1b}[K####\r\u{1b}[", "KDone\r\n\r\n"]);
        assert_eq!(terminal.seen().unwrap(), "Down\nDone\n\n");
        assert_eq!(terminal.printed(), "Down\n##-- 50 %\r####\rDone\n\n");
    }

    #[test]
    fn a_prompt_keeps_its_blank_and_a_wide_line_stays_one() {
        assert_eq!(terminal(&["Go? [Y/n] \r\n"]).seen().unwrap(), "Go? [Y/n] \n");
        assert_eq!(terminal(&["Go? [Y/n] "]).seen().unwrap(), "Go? [Y/n] ");
        let wide = "x".repeat(usize::from(COLUMNS.get()) + 7);
        assert_eq!(terminal(&["a\r\n", &wide, "\r\nb"]).seen().unwrap(), format!("a\n{wide}\nb"));
        assert_eq!(terminal(&["\r\n\r\n"]).seen().unwrap(), "\n\n");
        assert_eq!(terminal(&[]).seen().unwrap(), "");
    }

    #[test]
    fn lines_that_may_have_scrolled_away_are_an_error() {
        let lines = "line\r\n".repeat(usize::from(ROWS.get()));
        assert!(terminal(&[&lines]).seen().is_err());
    }
}
