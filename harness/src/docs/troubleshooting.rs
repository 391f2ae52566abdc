//! Generates docs/troubleshooting.md from its data, the snapshots and the matrix, and checks that no message is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Deserialize;

use super::{links, snapshots};
use crate::data::{self, one_line};
use crate::matrix::cell::Cell;
use crate::matrix::scenario::matrix;

/// The meaning of the messages.
const SOURCE: &str = "docs/troubleshooting.toml";

/// The page that is made of it, of the snapshots and of the matrix.
const PAGE: &str = "docs/troubleshooting.md";

/// The source of the page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Troubleshooting {
    introduction: String,
    #[serde(rename = "group")]
    groups: Vec<Group>,
    /// Faults and states with which an upgrade copes without a message.
    unseen: Vec<String>,
}

/// Messages that belong together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    heading: String,
    #[serde(rename = "entry")]
    entries: Vec<Entry>,
}

/// A message, what it means, and what to do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    heading: String,
    /// Parts of the lines on the screen.
    seen: Vec<String>,
    /// The snapshot from which the line with the first of them is quoted, and what the upgrader itself says to do about it.
    quoted: String,
    means: String,
    /// What to do, beside what the message says.
    #[serde(default, rename = "do")]
    what_to_do: String,
    /// Faults (`NAME`, `NAME@STEP`) and states of the matrix in which it is seen.
    #[serde(default)]
    of: Vec<String>,
}

/// A cell of the matrix, as far as this page is concerned.
struct Known {
    /// The directory of its file: `faults` or `states`.
    directory: &'static str,
    /// The name of the fault, or of the state.
    name: String,
    /// With the step at which the fault is injected: `hook-fails@pre-upgrade-hooks`.
    full_name: String,
    /// What it is.
    description: String,
    /// Its snapshot.
    snapshot: String,
}

impl Known {
    fn of(cell: &Cell) -> Option<Self> {
        let (directory, name, full_name, description) = match (&cell.fault, cell.scenario.as_str()) {
            (Some(fault), "faults" | "database") => ("faults", &fault.name, fault.name(), &fault.fault.description),
            (None, "states") => ("states", &cell.state_name, cell.state_name.clone(), &cell.state.description),
            _ => return None,
        };
        let snapshot = format!("matrix/{}/{}", cell.scenario, cell.snapshot());
        Some(Self { directory, name: name.clone(), full_name, description: one_line(description), snapshot })
    }

    fn is_meant(&self, of: &str) -> bool {
        of == self.name || of == self.full_name
    }

    /// A link to its file.
    fn link(&self) -> String {
        format!("[{0}](../harness/{1}/{0}.toml)", self.name, self.directory)
    }
}

/// Everything that the page is made of.
struct Material {
    page: Troubleshooting,
    known: Vec<Known>,
    snapshots: BTreeMap<String, String>,
}

impl Material {
    fn read() -> Self {
        let page = data::read(&documented::tree(SOURCE)).unwrap();
        let mut known: Vec<Known> = matrix().unwrap().iter().filter_map(Known::of).collect();
        known.sort_by(|one, other| one.full_name.cmp(&other.full_name));
        known.dedup_by(|one, other| one.full_name == other.full_name);
        Self { page, known, snapshots: snapshots() }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.page.groups.iter().flat_map(|group| &group.entries)
    }

    /// The cells in which an entry is seen.
    fn cells<'a>(&'a self, of: &'a [String]) -> impl Iterator<Item = &'a Known> {
        self.known.iter().filter(|known| of.iter().any(|of| known.is_meant(of)))
    }

    /// The line of an entry as it was seen, and what the upgrader says to do.
    fn quotation(&self, entry: &Entry) -> String {
        let seen = &self.snapshots[&entry.quoted];
        let mut lines = seen.lines().skip_while(|line| !line.contains(&entry.seen[0]));
        let mut quotation = lines.next().unwrap().trim().to_owned() + "\n";
        // What a service said last comes between.
        let mut rest = lines.skip_while(|line| line.starts_with("      "));
        if let Some(remedy) = rest.next().map(str::trim).filter(|line| line.starts_with("What to do: ")) {
            quotation = quotation + remedy + "\n";
        }
        quotation
    }

    /// The exit codes with which a run ends that says it.
    fn exits(&self, entry: &Entry) -> BTreeSet<u8> {
        let cells = self.cells(&entry.of).map(|known| &known.snapshot);
        let after = |snapshot: &String| {
            let seen = &self.snapshots[snapshot];
            let said = entry.seen.iter().find_map(|part| seen.find(part.as_str()))?;
            // Not of what was started next.
            let rest = seen[said..].split("\n$ ").next()?;
            let (_, exit) = rest.split_once("[exit code ")?;
            exit.split_once(']')?.0.parse().ok()
        };
        cells.chain([&entry.quoted]).filter_map(after).collect()
    }

    fn render(&self) -> String {
        let mut text = format!(
            "<!-- Made of troubleshooting.toml, the snapshots and the matrix: change those, then `INSTA_UPDATE=always cargo test -p harness \
             --lib docs`. -->\n# Troubleshooting\n\n{}\n",
            self.page.introduction.trim()
        );
        for group in &self.page.groups {
            let _ = write!(text, "\n- [{}](#{})", group.heading, links::anchor(&group.heading));
        }
        text.push('\n');
        for group in &self.page.groups {
            let _ = write!(text, "\n## {}\n", group.heading);
            for entry in &group.entries {
                let _ = write!(
                    text,
                    "\n### {}\n\n```\n{}```\n\n{}\n",
                    entry.heading,
                    self.quotation(entry),
                    entry.means.trim()
                );
                if !entry.what_to_do.is_empty() {
                    let _ = write!(text, "\n**What to do:** {}\n", entry.what_to_do.trim());
                }
                let exits: Vec<String> = self.exits(entry).iter().map(u8::to_string).collect();
                let mut small = Vec::new();
                if !exits.is_empty() {
                    small.push(format!("[Exit code](admin.md#exit-codes) {}.", exits.join(", ")));
                }
                let tried: BTreeSet<String> = self.cells(&entry.of).map(Known::link).collect();
                if !tried.is_empty() {
                    small.push(format!("Seen with {}.", tried.into_iter().collect::<Vec<_>>().join(", ")));
                }
                if !small.is_empty() {
                    let _ = write!(text, "\n{}\n", small.join(" "));
                }
            }
        }
        text.push_str("\n## Handled automatically\n\nAn upgrade handles these without your help. A test covers each.\n\n| what | |\n|---|---|\n");
        let unseen: BTreeMap<&str, &Known> =
            self.cells(&self.page.unseen).map(|known| (known.name.as_str(), known)).collect();
        for known in unseen.into_values() {
            let _ = writeln!(text, "| {} | {} |", known.description, known.link());
        }
        text
    }
}

/// How lines begin that say that something is not as it should be.
const BEGINNINGS: [&str; 8] = [
    "error: ",
    "Problem: ",
    "Note: ",
    "Waiting up to ",
    "Restart recommended",
    "Reboot recommended",
    "Configuration files to look at",
    "Packages to remove (",
];

/// What such lines have in them. What comes after the exit code of a program that a signal has ended is nothing of ours to say.
const PARTS: [&str; 9] = [
    ": FAILED",
    " NOK  ",
    ": skipped, ",
    "skipped: ",
    "was interrupted on ",
    "Trying once more",
    "[exit code 12",
    "[exit code 13",
    "[exit code 14",
];

/// Whether a line of the screen says that something is not as it should be.
fn is_complaint(line: &str) -> bool {
    let line = line.trim_start();
    // Which machine it was is said by Ansible; what is wrong there follows.
    if line.starts_with("fatal: [") {
        return false;
    }
    BEGINNINGS.iter().any(|beginning| line.starts_with(beginning))
        || PARTS.iter().any(|part| line.contains(part))
        || line.split_once("What to do: ").is_some_and(|(before, _)| !before.is_empty())
}

/// The lines of a screen that say that something is not as it should be: by their words, or by the remedy below them.
fn complaints(seen: &str) -> impl Iterator<Item = &str> {
    let below = seen.lines().skip(1).chain([""]);
    // What `status` shows is no message of a run.
    let of_status = |line: &str| line.starts_with("Still running ") || line.ends_with(" is failed");
    let has_remedy = move |line: &str, below: &str| {
        below.starts_with("  What to do: ") && !line.starts_with("      ") && !of_status(line)
    };
    seen.lines()
        .zip(below)
        .filter(move |(line, below)| is_complaint(line) || has_remedy(line, below))
        .map(|(line, _)| line)
}

#[test]
fn the_page_is_made_of_what_was_seen() {
    documented::is_made_of_data(PAGE, &Material::read().render());
}

#[test]
fn every_fault_and_every_state_has_an_entry_whose_message_is_seen() {
    let material = Material::read();
    let mut wrong = Vec::new();
    let all = || material.entries().flat_map(|entry| &entry.of).chain(&material.page.unseen);
    for of in all() {
        if !material.known.iter().any(|known| known.is_meant(of)) {
            wrong.push(format!("{of}: the matrix has no such fault or state"));
        }
    }
    for known in &material.known {
        let seen = &material.snapshots[&known.snapshot];
        let entries: Vec<_> = material.entries().filter(|entry| entry.of.iter().any(|of| known.is_meant(of))).collect();
        let is_unseen = material.page.unseen.iter().any(|of| known.is_meant(of));
        let name = &known.full_name;
        match (entries.is_empty(), is_unseen) {
            (true, false) => wrong.push(format!("{name}: no entry speaks of it, and `unseen` does not name it")),
            (false, true) => wrong.push(format!("{name}: there is an entry, and `unseen` names it as well")),
            _ => {}
        }
        for entry in entries {
            if !entry.seen.iter().any(|part| seen.contains(part.as_str())) {
                wrong.push(format!("{name}: nothing of {:?} is on its screen", entry.heading));
            }
        }
        if let Some(line) = complaints(seen).next().filter(|_| is_unseen) {
            wrong.push(format!("{name}: is named in `unseen`, and its screen says: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{SOURCE}:\n{}", wrong.join("\n"));
}

#[test]
fn every_message_has_an_entry_and_every_entry_a_message() {
    let material = Material::read();
    let parts: BTreeSet<&str> = material.entries().flat_map(|entry| &entry.seen).map(String::as_str).collect();
    let mut wrong = BTreeSet::new();
    for (snapshot, seen) in &material.snapshots {
        for line in complaints(seen) {
            if !parts.iter().any(|part| line.contains(part)) {
                wrong.insert(format!("no entry for this line of snapshots/{snapshot}.snap: {}", line.trim()));
            }
        }
    }
    for entry in material.entries() {
        match material.snapshots.get(&entry.quoted) {
            None => drop(wrong.insert(format!("{:?}: there is no snapshots/{}.snap", entry.heading, entry.quoted))),
            Some(seen) if !seen.lines().any(|line| line.contains(&entry.seen[0])) => {
                wrong.insert(format!(
                    "{:?}: {:?} is not in snapshots/{}.snap",
                    entry.heading, entry.seen[0], entry.quoted
                ));
            }
            Some(_) => {}
        }
        for part in &entry.seen {
            if !material.snapshots.values().any(|seen| seen.lines().any(|line| line.contains(part.as_str()))) {
                wrong.insert(format!("{:?}: no snapshot has {part:?}", entry.heading));
            }
        }
    }
    assert!(wrong.is_empty(), "{SOURCE}:\n{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}
