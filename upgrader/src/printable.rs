//! Makes text from outside (names, versions, what programs print) safe to show: without escape sequences, and without a line break that
//! would forge a line of ours.

use std::borrow::Cow;
use std::fmt::Write as _;

/// What stands in place of a character that is not shown.
const REPLACEMENT: char = '\u{fffd}';

/// True for a character that a terminal or a pager may act on: control characters (C0 without tab, DEL, C1), marks and overrides of
/// the direction of text, line separators of Unicode, and characters without width.
fn is_unsafe(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{8}'
            | '\n'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// A text that is shown on one line.
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, is_unsafe)
}

/// A text of ours that may have several lines. What it names must have passed [`line()`].
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |character| is_unsafe(character) && character != '\n')
}

fn replaced(text: &str, which: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.contains(&which) {
        text.chars().map(|character| if which(character) { REPLACEMENT } else { character }).collect()
    } else {
        text.into()
    }
}

/// A JSON document in which every string can be shown on one line. Its data differs where they could not.
pub fn json_lines(document: &str) -> String {
    let mut cleaned = String::with_capacity(document.len());
    let mut characters = document.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                // serde_json writes control characters as `\u001b`, and others as they are.
                Some('u') => {
                    let _ = characters.nth(3);
                    cleaned.push(REPLACEMENT);
                }
                Some('n' | 'r' | 'b' | 'f') => cleaned.push(REPLACEMENT),
                escaped => cleaned.extend(['\\'].into_iter().chain(escaped)),
            },
            _ => cleaned.push(if is_unsafe(character) { REPLACEMENT } else { character }),
        }
    }
    cleaned
}

/// The same JSON document, with the same data, in which what cannot be shown is escaped.
pub fn json_escaped(document: &str) -> String {
    let mut escaped = String::with_capacity(document.len());
    for character in document.chars() {
        if character != '\n' && is_unsafe(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Characters that a terminal acts on, among others.
#[cfg(test)]
pub(crate) const HOSTILE: &str = "a\x1b[2Jb\nc\r\u{9b}31md\u{202e}e\u{2028}f\u{2066}g\u{7f}\u{e0041}\té";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_acts_on_is_replaced_and_all_else_stays() {
        assert_eq!(
            line(HOSTILE),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}\u{fffd}31md\u{fffd}e\u{fffd}f\u{fffd}g\u{fffd}\u{fffd}\té"
        );
        assert!(lines(HOSTILE).starts_with("a\u{fffd}[2Jb\nc\u{fffd}"));
        let plain = "Prüfung – “ok” → 日本 \\ \" /etc/a b\t10 %";
        assert!(matches!(line(plain), Cow::Borrowed(same) if same == plain));
    }

    #[test]
    fn a_json_document_is_escaped_without_a_change_of_its_data() {
        let document = serde_json::to_string_pretty(&[HOSTILE]).expect("data");
        let escaped = json_escaped(&document);
        assert!(escaped.chars().all(|character| character == '\n' || !is_unsafe(character)), "{escaped}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).expect("the same"), [HOSTILE]);
    }

    proptest! {
        #[test]
        fn every_string_of_a_json_document_becomes_its_line(
            texts in prop::collection::vec(prop_oneof![any::<String>(), "[\\\\nu0\"\n\u{1b}\u{9b}\u{2028}/b]{0,8}"], 0..4),
        ) {
            let document = serde_json::to_string(&texts).expect("data");
            let expected: Vec<_> = texts.iter().map(|text| line(text).into_owned()).collect();
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&json_lines(&document)).expect("a document"), expected);
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&json_escaped(&document)).expect("a document"), texts);
        }
    }
}
