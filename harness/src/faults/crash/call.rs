//! The system calls that make data durable, as injection points.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

/// The system calls that make something durable, or give it another name; a question mark before those that not every architecture has.
pub(super) const DURABLE: &str = "fsync,fdatasync,syncfs,?rename,renameat,renameat2,?link,linkat";

/// How many of the calls of one kind are taken of a step that makes more of them than this.
const OF_MANY: usize = 8;

/// A system call that a process made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Call {
    /// Its name: `fdatasync`.
    pub(super) name: String,
    /// How many of this name the process had made with it.
    pub(super) nth: usize,
    /// The step that the upgrader's journal was at; empty before the first, and of other programs.
    pub(super) step: String,
}

/// Reads what strace(1) wrote down of a process. The step is that of the journal's last line.
pub(super) fn read(trace: &str) -> Vec<Call> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let (mut step, mut calls) = (String::new(), Vec::new());
    for line in trace.lines() {
        let Some((name, rest)) = line.split_once('(') else { continue };
        if name == "write" {
            if let Some((_, begun)) = rest.split_once(r#"\"step-began\":\""#) {
                begun.split('\\').next().unwrap_or_default().clone_into(&mut step);
            }
        } else if name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let nth = counts.entry(name).or_default();
            *nth += 1;
            calls.push(Call { name: name.to_owned(), nth: *nth, step: step.clone() });
        }
    }
    calls
}

/// The calls that are worth a point each, with their places in the row: all that sync, and of many others of a step some.
pub(super) fn chosen(calls: &[Call]) -> Vec<(usize, &Call)> {
    let mut alike: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (index, call) in calls.iter().enumerate() {
        alike.entry((&call.step, &call.name)).or_default().push(index);
    }
    let every =
        |indices: &Vec<usize>, name: &str| if name.contains("sync") { 1 } else { indices.len().div_ceil(OF_MANY) };
    let mut indices: Vec<usize> =
        alike.iter().flat_map(|((_, name), all)| all.iter().copied().step_by(every(all, name).max(1))).collect();
    indices.sort_unstable();
    indices.into_iter().map(|index| (index + 1, &calls[index])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_name_and_know_their_step() {
        let trace = "fsync(3</a>) = 0\nwrite(4</j>, \"00 {\\\"time\\\":\\\"x\\\",\\\"step-began\\\":\\\"packages\\\"}\\n\", 9) = 9\n\
                     fdatasync(4</j>) = 0\n--- SIGCHLD {si_signo=SIGCHLD} ---\nfdatasync(4</j>) = 0\n+++ exited with 0 +++\n";
        let call = |name: &str, nth, step: &str| Call { name: name.to_owned(), nth, step: step.to_owned() };
        assert_eq!(
            read(trace),
            [call("fsync", 1, ""), call("fdatasync", 1, "packages"), call("fdatasync", 2, "packages")]
        );
    }

    #[test]
    fn every_sync_counts_and_of_many_renames_some() {
        let call = |name: &str, nth| Call { name: name.to_owned(), nth, step: String::new() };
        let calls: Vec<Call> = (1..=100).flat_map(|nth| [call("rename", nth), call("fsync", nth)]).collect();
        let chosen = chosen(&calls);
        assert_eq!(chosen.iter().filter(|(_, call)| call.name == "fsync").count(), 100);
        let renames: Vec<usize> =
            chosen.iter().filter(|(_, call)| call.name == "rename").map(|(_, call)| call.nth).collect();
        assert_eq!(renames, [1, 14, 27, 40, 53, 66, 79, 92]);
        assert_eq!(chosen[1], (2, &calls[1]), "places in the row begin with one");
    }
}
