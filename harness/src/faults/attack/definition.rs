//! Attacks as data: the files in `attacks/`.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::data::{self, tree};

/// An attack: a file in `attacks/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Attack {
    /// What the account has, what it tries, and what it must not get.
    pub(super) description: String,
    pub(super) kind: AttackKind,
    /// Shell commands that root runs before: what an admin or a package does on such a machine.
    #[serde(default)]
    pub(super) prepare: String,
    /// The program that the account runs, a file in `attacks/programs/`, and its arguments.
    pub(super) program: Vec<String>,
    /// True if a service of the new release does not start, so that the upgrade is rolled back.
    #[serde(default)]
    pub(super) service_fails: bool,
    /// What the admin does.
    #[serde(rename = "run")]
    pub(super) commands: Vec<AdminCommand>,
    /// Shell commands that have to succeed as root afterwards, beside the checks that follow every attack.
    #[serde(default)]
    pub(super) holds: String,
    /// Shell commands with which the admin repairs what the account did to its own files, where a package could not be upgraded otherwise.
    #[serde(default)]
    pub(super) fix: String,
    /// Paths that the account can make outside of its directories, because of what root prepared.
    #[serde(default)]
    pub(super) own: Vec<String>,
    /// The limit of the resident memory of each process of the upgrader, in megabytes.
    #[serde(default = "Attack::memory")]
    pub(super) memory: u64,
    /// True if `make test` runs it, too.
    #[serde(default)]
    pub(super) chosen: bool,
}

/// What an attack is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum AttackKind {
    Files,
    Database,
    Terminal,
    Directories,
    Programs,
    Output,
    Time,
}

/// A command of the admin.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct AdminCommand {
    /// The command line; empty for a machine that only boots again.
    #[serde(default)]
    pub(super) command: String,
    /// True if the machine is shut down and boots again before the command.
    #[serde(default)]
    pub(super) reboot: bool,
    /// Shell commands of root before it, in the same shell.
    #[serde(default)]
    pub(super) before: String,
    /// The exit codes that are allowed.
    #[serde(default = "AdminCommand::done")]
    pub(super) exit: Vec<i64>,
    /// What the screen has to say, each somewhere.
    #[serde(default)]
    pub(super) says: Vec<String>,
    /// How many seconds it may take.
    #[serde(default = "AdminCommand::seconds")]
    pub(super) seconds: u64,
}

impl Attack {
    /// Every attack by its name, in the order of the names. An error names the file, the line and the key.
    pub(super) fn all() -> Result<Vec<(String, Self)>> {
        data::files("attacks")?.into_iter().map(|(name, path)| Ok((name, Self::read(&path)?))).collect()
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let attack: Self = data::read(path)?;
        let program = attack.program.first().with_context(|| format!("{}: program is empty", path.display()))?;
        let file = programs().join(program);
        ensure!(file.is_file(), "{}: program: there is no {}", path.display(), file.display());
        ensure!(!attack.commands.is_empty(), "{}: the admin does nothing", path.display());
        Ok(attack)
    }

    fn memory() -> u64 {
        128
    }
}

impl AdminCommand {
    fn done() -> Vec<i64> {
        vec![0, 6]
    }

    fn seconds() -> u64 {
        120
    }
}

impl fmt::Display for AttackKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Files => "files",
            Self::Database => "database",
            Self::Terminal => "terminal",
            Self::Directories => "directories",
            Self::Programs => "programs",
            Self::Output => "output",
            Self::Time => "time",
        })
    }
}

/// The directory of the programs.
pub(super) fn programs() -> PathBuf {
    tree("harness/attacks/programs")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use documented::Page;

    use super::*;
    use crate::data::{keys, read_as};

    fn complaint(text: &str) -> String {
        let error = read_as("bad.toml", text, Attack::read).unwrap_err().to_string();
        error[error.find("bad.toml").unwrap()..].to_owned()
    }

    #[test]
    fn every_key_is_documented_and_the_examples_are_good() {
        let page = Page::read("docs/internals/attacks.md");
        page.section("## The file").has_keys(keys::<Attack>());
        page.section("## Commands of the admin").has_keys(keys::<AdminCommand>());
        for example in page.examples("attack") {
            read_as("example.toml", &example.text, Attack::read).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_with_an_attack_is_said_with_its_line_and_key() {
        let of = |text: &str| complaint(&format!("description = \"\"\nkind = \"files\"\n{text}\n"));
        let run = "[[run]]\ncommand = \"xivo-upgrade --yes\"\n";
        assert!(of("progam = []").starts_with("bad.toml:3: unknown field `progam`"), "{}", of("progam = []"));
        assert!(of(&format!("program = [\"none\"]\n{run}")).starts_with("bad.toml: program: there is no "));
        let unknown = of(&format!("program = [\"replace.sh\"]\n{run}exits = [0]"));
        assert!(unknown.starts_with("bad.toml:6: unknown field `exits`"), "{unknown}");
    }

    #[test]
    fn the_table_of_attacks_has_a_row_for_each_with_its_kind() {
        let rows = Page::read("SECURITY.md").section("## Attacks").rows();
        let cell = |text: &str| text.trim_matches('`').to_owned();
        let documented: BTreeSet<_> = rows.iter().map(|row| (cell(&row[0]), row[1].clone())).collect();
        let all = Attack::all().unwrap();
        let known: BTreeSet<_> = all.iter().map(|(name, attack)| (name.clone(), attack.kind.to_string())).collect();
        assert_eq!(documented, known);
        assert_eq!(rows.len(), known.len());
    }

    #[test]
    fn each_attack_says_what_it_is_and_some_are_run_by_each_test() {
        let all = Attack::all().unwrap();
        assert!(all.iter().all(|(_, attack)| attack.description.trim().ends_with('.')));
        assert!(all.iter().any(|(_, attack)| attack.chosen));
    }
}
