//! Reads the pages below docs/, for tests that compare them with the code: keys of tables, examples, and generated parts. A failed
//! comparison panics with a message that says what to do.
#![expect(clippy::missing_panics_doc, reason = "that is what all of it is for")]

pub mod layers;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A page of the documentation, or a part of one.
#[derive(Debug, Clone)]
pub struct Page {
    /// Its path from the root of the tree.
    name: String,
    text: String,
}

/// A fenced block of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The text behind the fence: a language, and the kind of the example or the source of the quotation.
    pub label: String,
    /// Its content.
    pub text: String,
    /// The number of its first line, counted from the beginning of the page or part.
    pub line: usize,
}

/// A path in this tree, from its root.
pub fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The text of a file in this tree.
pub fn text(path: &str) -> String {
    fs::read_to_string(tree(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

impl Page {
    /// A page, by its path from the root of the tree: `docs/admin.md`.
    pub fn read(path: &str) -> Self {
        Self { name: path.to_owned(), text: text(path) }
    }

    /// The section below a heading, written with its hashes (`## Services`), up to the next heading of that level.
    #[must_use]
    pub fn section(&self, heading: &str) -> Self {
        let level = heading.bytes().take_while(|byte| *byte == b'#').count();
        let name = format!("{}, {heading}", self.name);
        let mut fenced = false;
        let mut below = self.text.lines().skip_while(|line| *line != heading);
        assert!(below.next().is_some(), "{name}: there is no such heading");
        let mut is_next = |line: &str| {
            fenced ^= line.starts_with("```");
            let hashes = line.bytes().take_while(|byte| *byte == b'#').count();
            !fenced && (1..=level).contains(&hashes)
        };
        let lines: Vec<&str> = below.take_while(|line| !is_next(line)).collect();
        Self { name, text: lines.join("\n") }
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The cells of its tables, row by row, without their heads.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let row = |line: &str| {
            Some(
                line.trim()
                    .strip_prefix('|')?
                    .strip_suffix('|')?
                    .split('|')
                    .map(|cell| cell.trim().to_owned())
                    .collect(),
            )
        };
        let is_rule = |line: &str| line.trim().starts_with("|---");
        let below = self.text.lines().skip(1).chain([""]);
        let body = self.text.lines().zip(below).filter(|(line, below)| !is_rule(line) && !is_rule(below));
        body.filter_map(|(line, _)| row(line)).collect()
    }

    /// The words between backticks in the first column of its tables.
    pub fn keys(&self) -> BTreeSet<String> {
        self.column(0).collect()
    }

    /// The words between backticks in a column of its tables, counted from 0.
    pub fn column(&self, number: usize) -> impl Iterator<Item = String> {
        self.rows().into_iter().filter_map(move |row| row.get(number).cloned()).flat_map(|cell| quoted(&cell))
    }

    /// The default of a key: the text between backticks in the second column of its row.
    pub fn beside(&self, key: &str) -> String {
        let key = format!("`{key}`");
        let row = self.rows().into_iter().find(|row| row[0] == key);
        let row = row.unwrap_or_else(|| panic!("{} has no row for {key}", self.name));
        quoted(&row[1]).next().unwrap_or_else(|| panic!("{} does not say what is without {key}", self.name))
    }

    /// Every text between backticks.
    pub fn quoted(&self) -> BTreeSet<String> {
        self.text.lines().flat_map(quoted).collect()
    }

    /// Its headings of a level, without the hashes.
    pub fn headings(&self, level: usize) -> Vec<String> {
        let start = format!("{} ", "#".repeat(level));
        self.text.lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
    }

    /// Its fenced blocks.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in self.text.lines().enumerate() {
            match (open.take(), line.strip_prefix("```")) {
                (None, None) => {}
                (None, Some(label)) => {
                    open = Some(Block { label: label.to_owned(), text: String::new(), line: number + 2 });
                }
                (Some(block), Some(_)) => blocks.push(block),
                (Some(mut block), None) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                    open = Some(block);
                }
            }
        }
        assert!(open.is_none(), "{}: the last ``` has no end", self.name);
        blocks
    }

    /// The TOML blocks that are examples of this kind. There must be one, and every TOML block must name its kind.
    pub fn examples(&self, of: &str) -> Vec<Block> {
        let toml: Vec<Block> = self.blocks().into_iter().filter(|block| block.label.starts_with("toml")).collect();
        for block in &toml {
            assert!(block.label.len() > 5, "{}:{}: of what is this an example? ```toml WHAT", self.name, block.line);
        }
        let examples: Vec<_> = toml.into_iter().filter(|block| block.label == format!("toml {of}")).collect();
        assert!(!examples.is_empty(), "{}: there is no example of {of}", self.name);
        examples
    }

    /// Fails if the tables of this page have other keys than the code.
    pub fn has_keys(&self, known: impl IntoIterator<Item = impl Into<String>>) {
        let (documented, known) = (self.keys(), known.into_iter().map(Into::into).collect::<BTreeSet<String>>());
        let missing: Vec<_> = known.difference(&documented).collect();
        let invented: Vec<_> = documented.difference(&known).collect();
        assert!(missing.is_empty(), "{} does not know {missing:?}", self.name);
        assert!(invented.is_empty(), "{} knows {invented:?}, which the code does not", self.name);
    }

    /// Fails if the generated part of the page, between `<!-- MARK -->` and `<!-- end of MARK -->`, differs from this text. With
    /// `INSTA_UPDATE=always` it is written.
    pub fn has_part(&self, mark: &str, made: &str) {
        let (from, to) = (format!("<!-- {mark} -->\n"), format!("<!-- end of {mark} -->"));
        let around = self.text.split_once(&from).and_then(|(before, rest)| Some((before, rest.split_once(&to)?.1)));
        let (before, after) = around.unwrap_or_else(|| panic!("{} has no place for {mark}", self.name));
        is_made_of_data(&self.name, &format!("{before}{from}{made}{to}{after}"));
    }
}

/// Fails if a generated file of the tree differs from this text. With `INSTA_UPDATE=always` it is written.
pub fn is_made_of_data(path: &str, made: &str) {
    let there = fs::read_to_string(tree(path)).unwrap_or_default();
    if there == made {
        return;
    }
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        fs::write(tree(path), made).unwrap_or_else(|error| panic!("{path}: {error}"));
        return;
    }
    let differs = there.lines().zip(made.lines()).position(|(there, made)| there != made);
    let line = differs.unwrap_or_else(|| there.lines().count().min(made.lines().count()));
    panic!(
        "{path}:{}: is {:?}, and should be {:?}. Where that is meant, INSTA_UPDATE=always rewrites the file; review it with git diff",
        line + 1,
        there.lines().nth(line).unwrap_or_default(),
        made.lines().nth(line).unwrap_or_default()
    );
}

/// The names that serde expects in place of an unknown one, from its error message.
pub fn expected(complaint: &str) -> BTreeSet<String> {
    let (_, names) = complaint.split_once(", expected ").unwrap_or_else(|| panic!("nothing is expected: {complaint}"));
    quoted(names).collect()
}

/// The texts between backticks in a line.
fn quoted(line: &str) -> impl Iterator<Item = String> + use<> {
    line.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page { name: "x.md".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_section_ends_where_the_next_one_begins_and_not_in_a_block() {
        let page = page(
            "# A\n## B\n| `head` |\n|---|\n| `a`, `b` | `c` |\n```sh\n# no heading\n```\n### C\n| `d` |\n## D\n| `e` |\n",
        );
        let keys = |heading| page.section(heading).keys().into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!([keys("## B"), keys("### C"), keys("## D"), keys("# A")], ["a b d", "d", "e", "a b d e"]);
        assert_eq!(page.blocks(), [Block { label: "sh".to_owned(), text: "# no heading\n".to_owned(), line: 7 }]);
    }

    #[test]
    fn the_keys_of_a_complaint_are_all_of_them() {
        let of = |complaint| expected(complaint).into_iter().collect::<Vec<_>>();
        assert_eq!(of("unknown field `x`, expected one of `a`, `b`"), ["a", "b"]);
        assert_eq!(of("unknown field `x`, expected `a` or `b`"), ["a", "b"]);
        assert_eq!(of("unknown field `x`, expected `a`"), ["a"]);
    }

    #[test]
    #[should_panic(expected = "x.md does not know [\"b\"]")]
    fn a_key_that_is_not_documented_is_told() {
        page("| `a` |").has_keys(["a", "b"]);
    }

    #[test]
    #[should_panic(expected = "x.md knows [\"a\"], which the code does not")]
    fn a_key_that_does_not_exist_is_told() {
        page("| `a` |").has_keys([""; 0]);
    }

    #[test]
    #[should_panic(expected = "x.md:2: of what is this an example?")]
    fn an_example_of_nothing_is_told() {
        let _ = page("```toml\na = 1\n```\n").examples("x");
    }
}
