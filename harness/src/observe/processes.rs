//! Finds processes that outlived the last restart of their service (KillMode=process).

use std::collections::BTreeMap;

/// Prints of every process when it was started, what it is called, and which control group it is in.
pub(crate) const SCRIPT: &str = "grep -s '' /proc/[0-9]*/stat /proc/[0-9]*/cgroup || :";

/// The unit of the times in `proc_pid_stat(5)`, in microseconds: what it calls a clock tick is a hundredth of a second on every Linux.
const TICK: u64 = 10_000;

/// The processes that were there when their service was last inactive (microseconds since boot, by control groups):
/// `asterisk.service: worker`. What the script printed is `processes`.
pub(crate) fn outlived(stops: &BTreeMap<&str, u64>, processes: &str) -> Vec<String> {
    let mut known = BTreeMap::new();
    let mut groups = BTreeMap::new();
    for (path, line) in processes.lines().filter_map(|line| line.split_once(':')) {
        match path.rsplit_once('/') {
            Some((process, "stat")) => known.extend(stat(line).map(|stat| (process, stat))),
            Some((process, "cgroup")) => groups.extend(line.strip_prefix("0::").map(|group| (process, group))),
            _ => {}
        }
    }
    let mut outlived: Vec<String> = groups
        .into_iter()
        .filter_map(|(process, group)| {
            let ((name, tick), stop) = (known.get(process)?, stops.get(group)?);
            let unit = group.rsplit('/').next()?;
            ((tick + 1) * TICK < *stop).then(|| format!("{unit}: {name}"))
        })
        .collect();
    outlived.sort();
    outlived
}

/// A process's name and the tick since boot in which it was started. Its name may have blanks and parentheses in it.
fn stat(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = line.split_once('(')?.1.rsplit_once(") ")?;
    // The name is the second field, and the start the 22nd.
    Some((name, rest.split(' ').nth(22 - 3)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_when_its_service_was_inactive() {
        let stat = |process: u32, name: &str, start: u64| {
            format!("/proc/{process}/stat:{process} ({name}) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0\n")
        };
        let group = |process: u32, group: &str| format!("/proc/{process}/cgroup:0::{group}\n");
        let seen = [
            stat(7, "main", 500),
            stat(8, "a (b) c", 120),
            stat(9, "getty", 120),
            // It was started in the very tick in which the service was inactive.
            stat(10, "helper", 500),
            group(7, "/system.slice/x.service"),
            group(8, "/system.slice/x.service"),
            group(9, "/system.slice/y.service"),
            group(10, "/system.slice/x.service"),
            // It has ended since.
            group(11, "/system.slice/x.service"),
        ];
        let stops = BTreeMap::from([("/system.slice/x.service", 5_004_000)]);
        assert_eq!(outlived(&stops, &seen.concat()), ["x.service: a (b) c"]);
    }
}
