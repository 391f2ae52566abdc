//! Decides whether a download of apt makes progress.

use std::fs;
use std::path::PathBuf;

use crate::system::command::Said;

/// Watches the download of apt. apt prints a line for each retry, so lines are no progress: only more downloaded bytes than ever before
/// are.
#[derive(Debug)]
pub(super) struct ProgressWatch {
    /// The highest percentage so far. It stays 0 until apt has the `InRelease` of every source.
    most: f64,
    /// The highest size of the partial lists before that, in bytes.
    lists: u64,
    /// The directory of the partial lists.
    partial: PathBuf,
    /// The last file that apt tried: `http://deb.debian.org/debian bookworm InRelease`.
    last: String,
}

impl Default for ProgressWatch {
    fn default() -> Self {
        Self { most: 0.0, lists: 0, partial: PathBuf::from("/var/lib/apt/lists/partial"), last: String::new() }
    }
}

impl ProgressWatch {
    /// True if apt has downloaded more than before.
    pub(super) fn is_made(&mut self, said: Said<'_>) -> bool {
        match said {
            Said::Line(line) => {
                if let Some(file) = file(line) {
                    file.clone_into(&mut self.last);
                }
                false
            }
            Said::Status(line) => {
                let Some(percent) = percent(line) else { return false };
                let lists = if self.most > 0.0 { 0 } else { self.size_of_lists() };
                let more = percent > self.most || lists > self.lists;
                self.most = self.most.max(percent);
                self.lists = self.lists.max(lists);
                more
            }
        }
    }

    /// The size of the partial lists, in bytes.
    fn size_of_lists(&self) -> u64 {
        let files = fs::read_dir(&self.partial).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    }

    /// The error message if there is no progress within the timeout.
    pub(super) fn lacking(&self) -> String {
        let from = if self.last.is_empty() { "any package source" } else { &self.last };
        format!("nothing more comes from {from}")
    }
}

/// The file in a line of apt's about one: `Get:1 http://deb.debian.org/debian bookworm InRelease [151 kB]`.
fn file(line: &str) -> Option<&str> {
    let (_, file) = line.split_once(' ').filter(|(word, _)| {
        word.split_once(':').is_some_and(|(word, number)| {
            ["Get", "Ign", "Err"].contains(&word) && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    })?;
    Some(file.split_once(" [").map_or(file, |(file, _)| file))
}

/// The percentage of a download: `dlstatus:1:12.3456:Retrieving file 1 of 2`, with four digits behind the point.
fn percent(line: &str) -> Option<f64> {
    line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retried_download_is_no_progress() {
        let mut progress = ProgressWatch { partial: PathBuf::new(), ..ProgressWatch::default() };
        for (percent, more) in
            [("0.0000", false), ("0.2500", true), ("0.2500", false), ("0.0000", false), ("0.2501", true)]
        {
            let line = format!("dlstatus:1:{percent}:Retrieving file 1 of 2 (1h 2min remaining)");
            assert_eq!(progress.is_made(Said::Status(&line)), more, "{percent}");
        }
        for line in ["dlstatus", "dlstatus:1", "dlstatus:1:NaN:x", "pmstatus:x:90.0:x"] {
            assert!(!progress.is_made(Said::Status(line)), "{line}");
        }
    }

    #[test]
    fn lists_that_grow_are_progress_until_there_is_a_percentage() {
        let partial = tempfile::tempdir().unwrap();
        let mut progress = ProgressWatch { partial: partial.path().to_owned(), ..ProgressWatch::default() };
        let mut with = |text: &str, percent: &str| {
            fs::write(partial.path().join("InRelease"), text).unwrap();
            progress.is_made(Said::Status(&format!("dlstatus:1:{percent}:Retrieving file 1 of 1")))
        };
        assert!(with("ab", "0.0000"));
        assert!(!with("ab", "0.0000"));
        assert!(!with("a", "0.0000"), "a file that begins again");
        assert!(with("abc", "0.0000"));
        assert!(with("abc", "1.0000"));
        assert!(!with("abcd", "1.0000"));
    }

    #[test]
    fn what_apt_tried_last_is_named() {
        let mut progress = ProgressWatch::default();
        assert_eq!(progress.lacking(), "nothing more comes from any package source");
        for line in [
            "Get:1 http://r stable InRelease [151 kB]",
            "Ign:12 http://r stable InRelease",
            "  Connection failed [IP: 192.0.2.1 80]",
            "Note: x y",
        ] {
            assert!(!progress.is_made(Said::Line(line)), "{line}");
        }
        assert_eq!(progress.lacking(), "nothing more comes from http://r stable InRelease");
    }
}
