//! Checks that the pages quote the screens of the snapshots.

use documented::{Block, Page};

use super::{pages, snapshots};

/// Whether a text occurs in a snapshot, in whole lines. What is left out is a line of its own that has nothing but `…`.
fn occurs(quoted: &str, snapshot: &str) -> bool {
    let lines: Vec<&str> = quoted.lines().collect();
    let mut rest: Vec<&str> = snapshot.lines().collect();
    for part in lines.split(|line| *line == "…").filter(|part| !part.is_empty()) {
        let Some(at) = rest.windows(part.len()).position(|window| window == part) else { return false };
        rest.drain(..at + part.len());
    }
    true
}

/// The blocks of a page that show the screen: ```` ```text snapshots/upgrade.snap ````.
fn quotations(page: &Page) -> Vec<Block> {
    page.blocks().into_iter().filter(|block| block.label.starts_with("text")).collect()
}

#[test]
fn every_screen_that_is_quoted_was_seen() {
    let snapshots = snapshots();
    let mut quoted = 0;
    // What the guide shows is what its own test sees.
    for name in pages().iter().filter(|name| *name != "docs/guide.md") {
        for Block { label, text, line } in quotations(&Page::read(name)) {
            let place = format!("{name}:{line}");
            let source = label.strip_prefix("text snapshots/").and_then(|path| path.strip_suffix(".snap"));
            let source = source.unwrap_or_else(|| panic!("{place}: where was this seen? ```text snapshots/NAME.snap"));
            let snapshot = snapshots.get(source).unwrap_or_else(|| panic!("{place}: there is no snapshot {source}"));
            assert!(occurs(&text, snapshot), "{place}: this is not in snapshots/{source}.snap:\n{text}");
            quoted += 1;
        }
    }
    assert!(quoted > 10, "{quoted}");
}

#[test]
fn what_is_quoted_is_whole_lines_in_their_order() {
    let snapshot = "a\nb\nc\nd\n";
    for good in ["a\nb\n", "a\n…\nc\n", "…\nd\n", "…\nb\n…\n"] {
        assert!(occurs(good, snapshot), "{good:?}");
    }
    for bad in ["a\nc\n", "c\n…\na\n", "x\n", "a\n…\nx\n"] {
        assert!(!occurs(bad, snapshot), "{bad:?}");
    }
}
