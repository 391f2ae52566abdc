//! Compares the clock of the machine with the dates of the package sources.

use std::path::Path;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use super::Finding;
use crate::files;
use crate::model::time;
use crate::system::entries;

/// If even the newest source is older than this, its vendor has stopped publishing or the clock is ahead.
const STALE: SignedDuration = SignedDuration::from_hours(366 * 24);

/// How far ahead of the clock a source may have been published.
const LEEWAY: SignedDuration = SignedDuration::from_hours(1);

/// Compares the clock with the dates of the Release files that apt has just read. apt itself rejects files from the future, unless the
/// admin disabled that. It detects a clock that is ahead only for sources with a `Valid-Until:`.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut youngest = None;
    let directory = root.join("var/lib/apt/lists");
    for path in entries(&directory)? {
        if path.to_string_lossy().ends_with("Release") {
            let text = files::content(&path).unwrap_or_default();
            youngest = youngest.max(date(&String::from_utf8_lossy(&text)));
        }
    }
    Ok(youngest.and_then(|date| judge(date, Timestamp::now())).into_iter().collect())
}

fn judge(youngest: Timestamp, now: Timestamp) -> Option<Finding> {
    let age = now.duration_since(youngest);
    let (shown, day) = (time::minute(now), time::day(youngest));
    if age < -LEEWAY {
        let what =
            format!("this machine's clock shows {shown} UTC, before the newest package source was published ({day})");
        return Some(Finding::note(what, "Set the clock: `date` shows and sets it; a time service keeps it right."));
    }
    (age > STALE).then(|| {
        let what = format!("this machine's clock shows {shown} UTC, and the newest package source is of {day}");
        Finding::note(what, "If the clock is wrong, set it; otherwise the sources have had no update for a year.")
    })
}

/// Reads the `Date:` of a Release file: `Sat, 22 Nov 2026 15:48:53 UTC`.
fn date(release: &str) -> Option<Timestamp> {
    let date = release.lines().find_map(|line| line.strip_prefix("Date:"))?.trim();
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date.replace("UTC", "GMT")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_release_files_have_them() {
        let time = date("Origin: x\nDate: Sun, 22 Nov 2026 15:48:53 UTC\n").expect("a date");
        assert_eq!(time.to_string(), "2026-11-22T15:48:53Z");
        assert_eq!(
            date("Date: Sun,  1 Feb 2026 01:02:03 UTC\n").map(|time| time.to_string()).as_deref(),
            Some("2026-02-01T01:02:03Z")
        );
        for bad in ["", "Date:", "Date: soon", "Date: Sun, 99 Nov 2026 15:48:53 UTC", "Date: Sun, é UTC"] {
            assert_eq!(date(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_clock_behind_is_noted_and_so_is_one_far_ahead() {
        let day: Timestamp = "2026-11-22T00:00:00Z".parse().expect("a time");
        let after = |hours| judge(day, day + SignedDuration::from_hours(hours)).map(|finding| finding.fatal);
        assert_eq!([after(-2), after(0), after(24 * 300), after(24 * 400)], [Some(false), None, None, Some(false)]);
    }
}
