//! config.toml: the admin's settings.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::config::strict;
use crate::exit::Failure;
use crate::files;
use crate::model::policy::{ConffilePolicy, SyncPolicy, ValidationPolicy};

/// config.toml: the admin's settings. A file that is not there leaves everything as it is without it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Config {
    /// What becomes of edited conffiles, instead of what the product says.
    pub conffiles: Option<ConffilePolicy>,
    /// What is done about packages that differ from those that the vendor has validated, instead of what the product says.
    pub validated: Option<ValidationPolicy>,
    /// What becomes of an upgrade that fails.
    pub rollback: RollbackPolicy,
    /// When what a package changes is on the disk.
    pub sync: SyncPolicy,
    /// How long to wait.
    pub time_limits: TimeLimits,
    /// What to keep, and for how long.
    pub keep: Keep,
    /// The notification at the end of a run.
    pub notify: Notify,
}

/// What becomes of an upgrade that fails when the machine has been changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RollbackPolicy {
    /// It is rolled back.
    #[default]
    Auto,
    /// The admin is asked.
    Ask,
    /// No rollback data is saved, so no rollback is possible.
    Never,
}

/// How long to wait.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeLimits {
    /// For another program that holds a lock of dpkg or apt.
    #[serde(deserialize_with = "strict::duration")]
    pub lock: Duration,
    /// For a package source from which nothing comes.
    #[serde(deserialize_with = "strict::duration")]
    pub source: Duration,
    /// For a hook.
    #[serde(deserialize_with = "strict::duration")]
    pub hook: Duration,
}

/// What to keep, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Keep {
    /// Reports of past runs, in days.
    pub history_days: u16,
    /// Dumps of the database, in days.
    pub dump_days: u16,
    /// Rollback data after an upgrade, in days.
    pub rollback_days: u16,
}

/// The notification at the end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// A program and its arguments; none if the list is empty.
    pub command: Vec<String>,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self { lock: Duration::from_secs(120), source: Duration::from_secs(120), hook: Duration::from_secs(600) }
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self { history_days: 365, dump_days: 30, rollback_days: 7 }
    }
}

/// A setting, for the file that is shipped and for the man page.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The table it is in; empty for the top.
    pub table: &'static str,
    /// Its key.
    pub key: &'static str,
    /// What it is if nothing is said, as TOML.
    pub default: &'static str,
    /// What it is for: sentences.
    pub meaning: &'static str,
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    Setting {
        table: "",
        key: "conffiles",
        default: "\"replace\"",
        meaning: "What becomes of a conffile that you edited when its package brings another version of it. \"replace\" installs \
                  the package's and keeps yours beside it as .dpkg-old; \"keep\" leaves yours and puts the package's beside it \
                  as .dpkg-dist. The default is what the product says.",
    },
    Setting {
        table: "",
        key: "rollback",
        default: "\"auto\"",
        meaning: "What becomes of an upgrade that fails after the machine has been changed. \"auto\" rolls back; \"ask\" asks the \
                  admin; \"never\" saves no rollback data, so that no rollback is possible.",
    },
    Setting {
        table: "",
        key: "sync",
        default: "\"deferred\"",
        meaning: "When the changes of packages are on the disk. \"deferred\": fsync(2) returns at once for apt, dpkg and maintainer scripts; \
                  all is synced after each package in the background, and at the end. After a power cut before that, the rollback \
                  data is restored. \"each\" syncs each file, which is slower; so does an upgrade without rollback data.",
    },
    Setting {
        table: "",
        key: "validated",
        default: "\"warn\"",
        meaning: "What is done about packages that differ from those that the vendor has validated together. \"warn\" names them and asks; \
                  \"require\" refuses to upgrade to them; \"ignore\" does not compare. The default is what the product says.",
    },
    Setting {
        table: "time-limits",
        key: "lock",
        default: "\"2m\"",
        meaning: "How long to wait for another program that holds the dpkg lock.",
    },
    Setting {
        table: "time-limits",
        key: "source",
        default: "\"2m\"",
        meaning: "How long to wait for package sources while less than 250 bytes a second come from all of them, apt's own retries \
                  included. A faster source is waited for as long as it takes.",
    },
    Setting {
        table: "time-limits",
        key: "hook",
        default: "\"10m\"",
        meaning: "How long a hook may take. One that takes longer is ended with all its processes, and has failed.",
    },
    Setting {
        table: "keep",
        key: "history-days",
        default: "365",
        meaning: "For how many days the reports of past runs are kept. The last one is kept however old it is.",
    },
    Setting {
        table: "keep",
        key: "dump-days",
        default: "30",
        meaning: "For how many days the dumps are kept that are made before the database is migrated. The last one is kept \
                  however old it is.",
    },
    Setting {
        table: "keep",
        key: "rollback-days",
        default: "7",
        meaning: "For how many days after an upgrade `rollback` can roll it back. Until then the space of the old packages is not free. The next \
                  upgrade ends it sooner.",
    },
    Setting {
        table: "notify",
        key: "command",
        default: "[]",
        meaning: "A program and its arguments, run at the end of each upgrade whatever came of it, and when one with --yes fails \
                  before it begins, with the report as JSON on its stdin and the result in its environment: UPGRADE_RESULT (done, attention, unchanged, rolled-back, needs-human), \
                  UPGRADE_EXIT_CODE and UPGRADE_SUMMARY (one line).",
    },
];

impl Config {
    /// Reads a config.toml.
    ///
    /// # Errors
    /// One line that names the file, and for what is wrong inside it the line and the key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match files::text(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            text => text.with_context(|| {
                Failure::new(format!("{}: cannot be read", path.display()))
                    .remedy("Make it a text that root can read, or remove it: then everything is as without settings.")
            })?,
        };
        strict::parse(&text).map_err(|(line, message)| {
            Failure::new(format!("{}:{line}: {message}", path.display()))
                .remedy("Fix that line, or put a # in front of it to use the default.")
                .into()
        })
    }
}

#[cfg(test)]
mod tests {
    use documented::Page;
    use proptest::prelude::*;

    use super::*;

    fn complaint(text: &str) -> String {
        let (line, message) = strict::parse::<Config>(text).expect_err("it is bad");
        format!("{line}: {message}")
    }

    #[test]
    fn every_setting_exists_and_its_default_is_the_one_that_is_documented() {
        let mut text = String::new();
        for setting in SETTINGS {
            let table = if setting.table.is_empty() { String::new() } else { format!("[{}]\n", setting.table) };
            let line = format!("{table}{} = {}\n", setting.key, setting.default);
            let mut config: Config = strict::parse(&line).expect(&line);
            // The product's word is the default, and nothing is not the same as the usual word.
            config.conffiles = None;
            config.validated = None;
            assert_eq!(config, Config::default(), "{line}");
            if !setting.table.is_empty() && !text.contains(&table) {
                text.push_str(&table);
            }
            text.push_str(setting.key);
            text.push_str(" = ");
            text.push_str(setting.default);
            text.push('\n');
        }
        strict::parse::<Config>(&text).expect("all of them together");
        // And there is none that is not documented.
        let keys = ["conffiles", "validated", "rollback", "sync", "time-limits", "keep", "notify"];
        assert_eq!(complaint("x = 1"), format!("1: unknown field `x`, expected one of `{}`", keys.join("`, `")));
        for table in &keys[4..] {
            let documented: Vec<_> = SETTINGS
                .iter()
                .filter(|setting| setting.table == *table)
                .map(|setting| format!("`{}`", setting.key))
                .collect();
            let expected = complaint(&format!("[{table}]\nx = 1"));
            for key in &documented {
                assert!(expected.contains(key), "{expected}");
            }
            assert_eq!(expected.matches('`').count(), 2 + 2 * documented.len(), "{expected}");
        }
    }

    #[test]
    fn the_admin_guide_has_every_setting_and_its_examples_are_good() {
        let page = Page::read("docs/admin.md");
        let row = |Setting { table, key, default, meaning }: &Setting| {
            let table = if table.is_empty() { String::new() } else { format!("`[{table}]` ") };
            format!("| {table}`{key}` | `{default}` | {meaning} |\n")
        };
        let rows: String = SETTINGS.iter().map(row).collect();
        let made = format!("| setting | without it | what it is for |\n|---|---|---|\n{rows}");
        page.has_part("settings", &made);
        for example in page.examples("config.toml") {
            let read = strict::parse::<Config>(&example.text);
            assert!(read.is_ok(), "line {}: {read:?}", example.line);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        insta::assert_snapshot!([
            complaint("conffiles = \"burn\""),
            complaint("[time-limits]\n\nhook = \"forever\""),
            complaint("[time-limits]\nhook = \"0s\""),
            complaint("[keep]\nhistory-days = -1"),
            complaint("[notify]\ncommand = \"mail root\""),
            complaint("[notify"),
        ].join("\n"), @r#"
        1: conffiles: unknown variant `burn`, expected `replace` or `keep`
        3: hook: "forever" is not a span of time such as "60s" or "2m", at most a day
        2: hook: "0s" is not a span of time such as "60s" or "2m", at most a day
        2: history-days: invalid value: integer `-1`, expected u16
        2: command: invalid type: string "mail root", expected a sequence
        1: unclosed table, expected `]`
        "#);
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "(?s).{0,80}", setting in 0..SETTINGS.len(), value in "[-a-z0-9\"\\[\\]{}=,' \n]{0,12}") {
            let Setting { table, key, .. } = SETTINGS[setting];
            let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
            for text in [&text, &format!("{header}{key} = {value}"), &format!("{header}{key} = {value}\n{text}")] {
                if let Err((line, message)) = strict::parse::<Config>(text) {
                    prop_assert!((1..=text.split('\n').count()).contains(&line), "line {} of {:?}", line, text);
                    prop_assert!(!message.is_empty() && !message.contains('\n'), "{:?} of {:?}", message, text);
                }
            }
        }
    }
}
