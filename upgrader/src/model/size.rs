//! Numbers of bytes, for people.

/// A number of bytes as apt shows it: powers of a thousand, three digits.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // In tenths of the unit, rounded to the nearest.
    let (mut tenths, mut unit) = ((bytes.saturating_add(50)) / 100, 0);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths = (tenths + 500) / 1000;
        unit += 1;
    }
    if tenths < 1000 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", (tenths + 5) / 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_apt_shows_them() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (99_949, "99.9 kB"),
            (99_950, "100 kB"),
            (999_949, "1000 kB"),
            (12_345_678, "12.3 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }
}
