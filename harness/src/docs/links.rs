//! Checks the links between pages.

use std::path::{Component, Path, PathBuf};

use documented::Page;

use super::pages;

/// The address of a heading within its page, as GitHub and GitLab make it.
pub(super) fn anchor(heading: &str) -> String {
    let kept = |character: char| match character {
        ' ' => Some('-'),
        '-' | '_' => Some(character),
        _ if character.is_alphanumeric() => Some(character.to_ascii_lowercase()),
        _ => None,
    };
    heading.chars().filter_map(kept).collect()
}

/// The relative links of a text: path and heading.
fn links(text: &str) -> Vec<(&str, &str)> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let relative = targets.filter(|target| !target.contains("://") && !target.contains(' '));
    relative.map(|target| target.split_once('#').unwrap_or((target, ""))).collect()
}

/// A path without its dots.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{} is outside of the tree", path.display()),
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = documented::text(&page);
        for (path, heading) in links(&text) {
            let target = match path {
                "" => PathBuf::from(&page),
                path => plain(&Path::new(&page).parent().unwrap().join(path)),
            };
            let target = target.to_str().unwrap();
            if !documented::tree(target).exists() {
                broken.push(format!("{page}: {target} is not there"));
            } else if !heading.is_empty() && Path::new(target).extension().is_some_and(|extension| extension == "md") {
                let page_there = Page::read(target);
                let mut headings = (1..=6).flat_map(|level| page_there.headings(level));
                if !headings.any(|there| anchor(&there) == heading) {
                    broken.push(format!("{page}: {target} has no heading for #{heading}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn an_anchor_is_made_of_letters_and_dashes() {
    assert_eq!(anchor("4: put back, `rolled-back`"), "4-put-back-rolled-back");
}
