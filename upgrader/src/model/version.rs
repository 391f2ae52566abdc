//! The order of versions (deb-version(7)).

use std::cmp::Ordering;

/// Compares two versions in dpkg's order. It is total: what is no version of a package has its place in it, too.
pub fn compare(one: &str, other: &str) -> Ordering {
    let (one, other) = (parts(one), parts(other));
    one.0.cmp(&other.0).then_with(|| compare_part(one.1, other.1)).then_with(|| compare_part(one.2, other.2))
}

/// True if one version is newer than another.
pub fn is_newer(version: &str, than: &str) -> bool {
    compare(version, than) == Ordering::Greater
}

/// The epoch, the upstream version and the Debian revision.
fn parts(version: &str) -> (u64, &str, &str) {
    let version = version.trim();
    let (epoch, rest) = version.split_once(':').unwrap_or(("", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch.parse().unwrap_or(0), upstream, revision)
}

/// Compares text and numbers by turns (`verrevcmp` in dpkg's lib/dpkg/version.c).
fn compare_part(mut one: &str, mut other: &str) -> Ordering {
    while !one.is_empty() || !other.is_empty() {
        let (text, number) = (next(&mut one, false), next(&mut one, true));
        let (other_text, other_number) = (next(&mut other, false), next(&mut other, true));
        // The end of a version is older than any character but a tilde.
        let order = text.bytes().map(weight).chain([0]).cmp(other_text.bytes().map(weight).chain([0]));
        let (number, other_number) = (number.trim_start_matches('0'), other_number.trim_start_matches('0'));
        let order = order.then(number.len().cmp(&other_number.len())).then_with(|| number.cmp(other_number));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// Takes the digits at the beginning, or all before the first digit.
fn next<'a>(rest: &mut &'a str, digits: bool) -> &'a str {
    let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
    let (taken, after) = rest.split_at(end);
    *rest = after;
    taken
}

/// Letters are older than all other characters, a tilde is older than the end.
fn weight(byte: u8) -> i32 {
    match byte {
        b'~' => -1,
        _ if byte.is_ascii_alphabetic() => i32::from(byte),
        _ => i32::from(byte) + 256,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::system::command::Program;

    #[test]
    fn versions_are_in_the_order_of_dpkg() {
        // Each is newer than the one before; `dpkg --compare-versions` says the same.
        let oldest = ["~~", "~~a", "~", ""];
        let others =
            "0.9 1~~ 1~rc1 1 1-0.1 1-1~bpo12+1 1-1 1-1+b1 1a 1+b1 1.0.9 1.0.10 1.0.10-3 1.0.10-20 10 a 1:0.1 2:1~x 2:1";
        let ordered: Vec<&str> = oldest.into_iter().chain(others.split(' ')).collect();
        for (index, one) in ordered.iter().enumerate() {
            for (other_index, other) in ordered.iter().enumerate() {
                assert_eq!(compare(one, other), index.cmp(&other_index), "{one:?} {other:?}");
            }
        }
        for (one, other) in [("1.01", "1.1"), ("0:1", "1"), ("1-0", "1")] {
            assert_eq!(compare(one, other), Ordering::Equal, "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn every_text_has_its_place(one: String, other: String) {
            prop_assert_eq!(compare(&one, &other), compare(&other, &one).reverse());
            prop_assert_eq!(compare(&one, &one), Ordering::Equal);
        }

        #[test]
        fn dpkg_says_the_same(one in "[0-9][0-9a-z.+~]{0,6}(-[0-9a-z.+~]{1,3})?", other in "[0-9][0-9a-z.+~]{0,6}(-[0-9a-z.+~]{1,3})?") {
            // On a machine with dpkg.
            let dpkg = |order: &str| {
                Program::new("dpkg").args(["--compare-versions", &one, order, &other]).succeeds().ok()
            };
            if let Some(is_greater) = dpkg("gt") {
                prop_assert_eq!(is_greater, is_newer(&one, &other));
            }
        }
    }
}
