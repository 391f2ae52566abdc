//! Finds statements that a migration file must not have.

/// What a migration file does that it must not: the number of the line, and what is wrong there.
///
/// A migration and its record are one transaction, which the file must not end: `BEGIN`, `COMMIT` and their like are
/// refused. Commands of psql (`\connect`, `\i`) are refused as they can do the same and anything else, and so is
/// `COPY … FROM STDIN`, which needs one. Savepoints are fine.
///
/// Statements are told apart as psql does it (`psqlscan.l`), with one word of it more: what stands in a comment, a string, a
/// quoted name, a dollar-quoted body or the body of a function (`BEGIN ATOMIC … END`) is not the file's own statement.
pub(super) fn refused(text: &[u8]) -> Option<(usize, String)> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut scanner = Scanner { text, position: 0 };
    let mut statement = Statement::default();
    let found = loop {
        match scanner.next() {
            Some((at, Token::Word(word))) => statement.word(at, word),
            Some((_, Token::Mark(b'('))) => statement.parentheses += 1,
            Some((_, Token::Mark(b')'))) => statement.parentheses = statement.parentheses.saturating_sub(1),
            Some((at, Token::Mark(b'\\'))) => {
                break Some((at, "a migration cannot use commands of psql (\\)".to_owned()));
            }
            Some((_, Token::Mark(b';'))) if statement.parentheses > 0 || statement.bodies > 0 => {}
            end => {
                if let Some(found) = std::mem::take(&mut statement).refused() {
                    break Some(found);
                }
                if end.is_none() {
                    break None;
                }
            }
        }
    };
    found.map(|(at, what)| (text[..at].split(|byte| *byte == b'\n').count(), what))
}

/// A statement under way.
#[derive(Default)]
struct Statement {
    /// Where it begins.
    at: usize,
    /// Its words in upper case, up to a few.
    words: Vec<String>,
    /// Whether it names STDIN or TO anywhere.
    stdin: bool,
    to: bool,
    parentheses: usize,
    /// How deep it is in bodies of functions.
    bodies: usize,
}

impl Statement {
    /// `CREATE OR REPLACE FUNCTION` and the two after it that matter.
    const WORDS: usize = 5;

    fn word(&mut self, at: usize, word: String) {
        if self.words.is_empty() {
            self.at = at;
        }
        self.stdin |= word == "STDIN";
        self.to |= word == "TO";
        if self.parentheses == 0 && self.creates_routine() {
            match word.as_str() {
                "BEGIN" => self.bodies += 1,
                "CASE" if self.bodies > 0 => self.bodies += 1,
                "END" => self.bodies = self.bodies.saturating_sub(1),
                _ => {}
            }
        }
        if self.words.len() < Self::WORDS {
            self.words.push(word);
        }
    }

    fn creates_routine(&self) -> bool {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let (["CREATE", "OR", "REPLACE", what, ..] | ["CREATE", what, ..]) = words[..] else { return false };
        matches!(what, "FUNCTION" | "PROCEDURE")
    }

    /// What is wrong with it, at its end.
    fn refused(self) -> Option<(usize, String)> {
        let word = |index: usize| self.words.get(index).map_or("", String::as_str);
        let ends_transaction = match word(0) {
            "BEGIN" | "START" | "COMMIT" | "END" | "ABORT" => true,
            "ROLLBACK" => !self.to,
            "PREPARE" => word(1) == "TRANSACTION",
            _ => false,
        };
        if ends_transaction {
            return Some((self.at, format!("{}: a migration is one transaction already, and cannot end it", word(0))));
        }
        if word(0) == "COPY" && self.stdin {
            return Some((self.at, "COPY: a migration cannot read from stdin; use INSERT".to_owned()));
        }
        None
    }
}

enum Token {
    /// A word outside of quotes, in upper case.
    Word(String),
    /// A parenthesis, a semicolon or a backslash.
    Mark(u8),
}

struct Scanner<'a> {
    text: &'a [u8],
    position: usize,
}

impl Scanner<'_> {
    /// The next token that matters, and where it begins.
    fn next(&mut self) -> Option<(usize, Token)> {
        loop {
            let at = self.position;
            let byte = *self.text.get(at)?;
            self.position += 1;
            match byte {
                b'(' | b')' | b';' | b'\\' => return Some((at, Token::Mark(byte))),
                b'-' if self.peek() == Some(b'-') => self.skip_while(|byte| byte != b'\n'),
                b'/' if self.peek() == Some(b'*') => self.comment(),
                b'\'' | b'"' => self.quoted(byte, false),
                b'$' => self.dollar_quoted(at),
                byte if byte.is_ascii_digit() => self.skip_while(is_in_word),
                byte if is_in_word(byte) => {
                    self.skip_while(is_in_word);
                    let word = String::from_utf8_lossy(&self.text[at..self.position]).to_ascii_uppercase();
                    if word != "E" || self.peek() != Some(b'\'') {
                        return Some((at, Token::Word(word)));
                    }
                    self.position += 1;
                    self.escaped_string();
                }
                _ => {}
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }

    fn skip_while(&mut self, belongs: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&belongs) {
            self.position += 1;
        }
    }

    /// The rest of a string or quoted name. A doubled quote looks like the end of one and the begin of the next: the same.
    fn quoted(&mut self, quote: u8, escapes: bool) {
        while let Some(byte) = self.peek() {
            self.position += 1;
            match byte {
                b'\\' if escapes => self.position += 1,
                byte if byte == quote => return,
                _ => {}
            }
        }
    }

    /// The rest of an `E'…'`, which goes on after a doubled quote, and after a line break if the next line begins with one.
    fn escaped_string(&mut self) {
        loop {
            self.quoted(b'\'', true);
            let end = self.position;
            self.skip_while(|byte| byte.is_ascii_whitespace());
            let between = &self.text[end.min(self.text.len())..self.position.min(self.text.len())];
            if self.peek() != Some(b'\'') || !(between.is_empty() || between.contains(&b'\n')) {
                self.position = end;
                return;
            }
            self.position += 1;
        }
    }

    /// The rest of a comment; comments nest.
    fn comment(&mut self) {
        self.position += 1;
        let mut depth = 1;
        while depth > 0 && self.position < self.text.len() {
            match self.text.get(self.position..self.position + 2) {
                Some(b"/*") => depth += 1,
                Some(b"*/") => depth -= 1,
                _ => {
                    self.position += 1;
                    continue;
                }
            }
            self.position += 2;
        }
    }

    /// A dollar-quoted string that begins at `at`, if it is one: `$$ … $$`, `$body$ … $body$`.
    fn dollar_quoted(&mut self, at: usize) {
        if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return;
        }
        self.skip_while(|byte| is_in_word(byte) && byte != b'$');
        if self.peek() != Some(b'$') {
            self.position = at + 1;
            return;
        }
        self.position += 1;
        let tag = &self.text[at..self.position];
        let rest = &self.text[self.position..];
        let length = rest.windows(tag.len()).position(|window| window == tag).map_or(rest.len(), |end| end + tag.len());
        self.position += length;
    }
}

/// PostgreSQL's `ident_cont`.
fn is_in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(text: &str) -> Option<usize> {
        refused(text.as_bytes()).map(|(line, _)| line)
    }

    #[test]
    fn a_statement_that_ends_the_transaction_is_refused_with_its_line() {
        for (text, expected) in [
            ("COMMIT", 1),
            ("\u{feff}commit;", 1),
            ("CREATE TABLE a (x int);\n\nBEGIN;", 3),
            ("SELECT 1;/* a /* b */ ; */\n  end;", 2),
            ("SELECT E'\\'; ', 'x';\nrollback work;", 2),
            ("SELECT 'it''s', E'a'\n'\\'', $1, $$ ' $$, $a$ $$ $a$;\nABORT;", 3),
            ("INSERT INTO a VALUES (1); START TRANSACTION;", 1),
            ("PREPARE TRANSACTION 'x';", 1),
            ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE 1 WHEN 1 THEN 2 END; END;\nCOMMIT;", 2),
            ("SELECT '\\';\nCOMMIT;", 2),
            ("\\c other", 1),
            ("SELECT 1\n\\gexec", 2),
            ("SELECT 1;\nCOPY a FROM stdin;\n1'\n\\.\n", 2),
        ] {
            assert_eq!(line(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn words_that_only_look_like_it_are_fine() {
        for text in [
            "",
            "-- COMMIT;\nSELECT 1; -- ; COMMIT",
            "/* a /* b */ ; COMMIT; /* c */ */ SELECT 1;",
            "SELECT ';COMMIT;', \"a;COMMIT;\", E'\\';COMMIT;', $$;COMMIT;$$, $x1$;COMMIT; $$ \\ $x1$;",
            "ALTER TABLE a ADD \"commit\" int; SELECT begin, a$b$ FROM c;",
            "SAVEPOINT a; ROLLBACK TO SAVEPOINT a; ROLLBACK WORK TO a; PREPARE p AS SELECT 1;",
            "CREATE OR REPLACE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO a VALUES (1); SELECT 1; END;",
            "CREATE FUNCTION f() RETURNS trigger AS $$ BEGIN NEW.x := 1; RETURN NEW; END; $$ LANGUAGE plpgsql;",
            "CREATE RULE r AS ON INSERT TO a DO (DELETE FROM b; DELETE FROM c);",
            "COPY a FROM '/tmp/x'; COPY a TO STDOUT;",
            "DO $$ BEGIN PERFORM 1; END $$;",
        ] {
            assert_eq!(refused(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_a_line_is_one_of_the_text(pieces in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..8),
                prop::sample::select(vec!["'", "\"", "$$", "$a$", "E'", "\\", "/*", "*/", "--", "\n", ";", "(", ")", "END", " "])
                    .prop_map(|piece| piece.as_bytes().to_vec()),
            ],
            0..40,
        )) {
            let text = pieces.concat();
            if let Some((line, _)) = refused(&text) {
                prop_assert!(line >= 1 && line <= text.split(|byte| *byte == b'\n').count());
            }
        }
    }
}
