//! Decides whether a download of apt makes progress.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::files;
use crate::system::command::Said;
use crate::system::entries;

/// A source that sends fewer bytes a second than this makes no progress. The slowest modem that somebody may upgrade with has 1,000.
const LEAST_RATE: u64 = 250;

/// With this much more of the whole, in percent, a download makes progress, too: many small files come and go between two looks.
const LEAST_PART: f64 = 2.0;

/// Where apt has files that it has not downloaded completely.
const PARTIAL: [&str; 2] = ["/var/lib/apt/lists/partial", "/var/cache/apt/archives/partial"];

/// Watches the download of apt. apt prints a line for each retry, so lines are no progress: only downloaded bytes are, if enough of them
/// come within the timeout.
#[derive(Debug)]
pub(super) struct ProgressWatch {
    timeout: Duration,
    /// The directories of partial files, and the size of all their files when apt last reported, in bytes.
    partial: [PathBuf; 2],
    size: Option<u64>,
    /// How many bytes have come since the last progress, and when the last of them came.
    come: u64,
    last_came: Option<Instant>,
    /// The percentage at the last progress.
    percent: f64,
    /// The last file that apt tried: `http://deb.debian.org/debian bookworm InRelease`.
    last: String,
}

impl ProgressWatch {
    /// For a download that ends if it makes no progress within this timeout.
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            partial: PARTIAL.map(PathBuf::from),
            size: None,
            come: 0,
            last_came: None,
            percent: 0.0,
            last: String::new(),
        }
    }

    /// True if enough has come since it was last true.
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
                // A file that is complete, or that begins again, is gone from the size.
                let size = self.size_of_partial_files();
                let more = size.saturating_sub(self.size.replace(size).unwrap_or(size));
                if more > 0 {
                    self.come += more;
                    self.last_came = Some(Instant::now());
                }
                let enough = self.come >= LEAST_RATE.saturating_mul(self.timeout.as_secs()).max(1)
                    || percent >= self.percent + LEAST_PART;
                if enough {
                    self.come = 0;
                    self.percent = self.percent.max(percent);
                }
                enough
            }
        }
    }

    /// In bytes.
    fn size_of_partial_files(&self) -> u64 {
        let paths = self.partial.iter().flat_map(|directory| entries(directory).unwrap_or_default());
        paths.filter_map(|path| files::metadata(path).ok()).map(|file| file.len()).sum()
    }

    /// The error message if there is no progress within the timeout.
    pub(super) fn lacking(&self) -> String {
        let from = if self.last.is_empty() { "any package source" } else { &self.last };
        if self.last_came.is_some_and(|last| last.elapsed() < self.timeout / 2) {
            format!("less than {LEAST_RATE} bytes a second come from {from}")
        } else {
            format!("nothing more comes from {from}")
        }
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
    use std::fs;

    const TIMEOUT: Duration = Duration::from_secs(100);

    fn status(percent: f64) -> String {
        format!("dlstatus:1:{percent:.4}:Retrieving file 1 of 2 (1h 2min remaining)")
    }

    #[test]
    fn a_retried_download_is_no_progress() {
        let mut progress = ProgressWatch { partial: Default::default(), ..ProgressWatch::new(TIMEOUT) };
        for (percent, more) in [(0.0, false), (2.0, true), (2.0, false), (0.0, false), (3.9, false), (4.0, true)] {
            assert_eq!(progress.is_made(Said::Status(&status(percent))), more, "{percent}");
        }
        for line in ["dlstatus", "dlstatus:1", "dlstatus:1:NaN:x", "pmstatus:x:90.0:x"] {
            assert!(!progress.is_made(Said::Status(line)), "{line}");
        }
    }

    #[test]
    fn enough_bytes_within_the_timeout_are_progress_and_a_few_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let partial = [directory.path().to_owned(), PathBuf::new()];
        let mut progress = ProgressWatch { partial, ..ProgressWatch::new(TIMEOUT) };
        let mut with = |bytes: usize| {
            fs::write(directory.path().join("InRelease"), vec![b' '; bytes]).unwrap();
            progress.is_made(Said::Status(&status(0.0)))
        };
        assert!(!with(1_000_000), "what was there before");
        // 20 bytes a second for 1,000 seconds.
        let drip: Vec<bool> = (1..2000).map(|step| with(1_000_000 + step * 10)).collect();
        assert!(!drip.contains(&true));
        assert!(!with(0), "a file that begins again");
        assert!(with(6_000), "the rest of what has to come within the timeout");
        assert!(!with(6_000 + 24_999));
        assert!(with(6_000 + 25_000));
        assert!(progress.lacking().starts_with("less than 250 bytes a second come from "));
    }

    #[test]
    fn what_apt_tried_last_is_named() {
        let mut progress = ProgressWatch::new(TIMEOUT);
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
