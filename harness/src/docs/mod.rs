//! Tests that the pages of docs/ agree with the code.

mod links;
mod screens;
mod troubleshooting;

use std::collections::BTreeMap;

use crate::data;

/// Every snapshot, by its path below snapshots/ without the ending: what was seen.
fn snapshots() -> BTreeMap<String, String> {
    let snapshot = |path: &String| {
        let seen = documented::text(path).split_once("\n---\n").unwrap().1.to_owned();
        let name = path.strip_prefix("snapshots/").and_then(|path| path.strip_suffix(".snap")).unwrap();
        (name.to_owned(), seen)
    };
    below("snapshots", "snap").iter().map(snapshot).collect()
}

/// Every page of the documentation, by its path from the root of the tree.
fn pages() -> Vec<String> {
    let others =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "hooks/README.md"].map(str::to_owned);
    others.into_iter().chain(below("docs", "md")).collect()
}

/// The files below a directory of this tree with this extension, by their paths from the root of the tree.
fn below(directory: &str, extension: &str) -> Vec<String> {
    let root = documented::tree("");
    let paths = data::files_below(&documented::tree(directory), &[extension]).unwrap();
    paths.iter().map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn imports_go_down_the_layers_and_never_in_a_circle() {
    let wrong = documented::layers::Crate::read("harness").misdirected();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_has_a_header_and_every_type_a_name_of_its_own() {
    let wrong = documented::layers::Crate::read("harness").irregular();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
