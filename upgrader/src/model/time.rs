//! The forms in which points in time are shown and name files. All are in UTC, and cut from that of RFC 3339.

use jiff::Timestamp;

/// `2025-01-31`.
pub(crate) fn day(time: Timestamp) -> String {
    time.to_string().chars().take("2025-01-31".len()).collect()
}

/// `2025-01-31 23:59`.
pub(crate) fn minute(time: Timestamp) -> String {
    time.to_string().replacen('T', " ", 1).chars().take("2025-01-31 23:59".len()).collect()
}

/// `2025-01-31 at 23:59:59 UTC`.
pub(crate) fn second(time: Timestamp) -> String {
    let text: String = time.to_string().replacen('T', " at ", 1).chars().take("2025-01-31 at 23:59:59".len()).collect();
    format!("{text} UTC")
}

/// `20250131T235959Z`, for names of files: they sort by time.
pub(crate) fn stamp(time: Timestamp) -> String {
    let text: String = time.to_string().chars().take("2025-01-31T23:59:59".len()).collect();
    format!("{}Z", text.replace(['-', ':'], ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_four_forms() {
        for time in ["2025-01-31T23:59:59.987654321Z", "2025-01-31T23:59:59Z"] {
            let time: Timestamp = time.parse().expect("a time");
            assert_eq!(day(time), "2025-01-31");
            assert_eq!(minute(time), "2025-01-31 23:59");
            assert_eq!(second(time), "2025-01-31 at 23:59:59 UTC");
            assert_eq!(stamp(time), "20250131T235959Z");
        }
    }
}
