//! What holds the pages of docs/ and the code together.

mod links;
mod screens;
mod troubleshooting;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every snapshot, by its path below snapshots/ without the ending: what was seen.
fn snapshots() -> BTreeMap<String, String> {
    let mut snapshots = BTreeMap::new();
    let top = documented::tree("snapshots");
    let mut directories = vec![top.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|ending| ending == "snap") {
                let text = fs::read_to_string(&path).unwrap();
                let name = path.strip_prefix(&top).unwrap().with_extension("");
                let (_, seen) = text.split_once("\n---\n").unwrap();
                snapshots.insert(name.to_str().unwrap().to_owned(), seen.to_owned());
            }
        }
    }
    snapshots
}

/// Every page of the documentation, by its path from the root of the tree.
fn pages() -> Vec<String> {
    let mut pages: Vec<String> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "hooks/README.md"]
        .map(str::to_owned)
        .to_vec();
    for directory in ["docs", "docs/internals", "docs/reference"] {
        let entries = fs::read_dir(documented::tree(directory)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        pages.extend(names.filter(|name| is_page(name)).map(|name| format!("{directory}/{name}")));
    }
    pages.sort();
    pages
}

fn is_page(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|ending| ending == "md")
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
