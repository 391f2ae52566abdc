//! The release gate: upgrades machines from a vendor's old repository to a candidate, and says whether that may be released.

mod cell;
mod machines;
mod manifest;
mod offer;
mod options;

use std::fs;
use std::io::Write;

use anyhow::{Context as _, Result};

use self::machines::Machines;
pub use self::options::{GateOptions, WrongCommandLine};
use crate::machines::isolation;
use crate::matrix::record::Record;
use crate::report::{self, ReportFiles};

/// Does every upgrade, prints a line for each and a table of all, and writes the reports. Then fails if an upgrade did.
pub fn run(options: &GateOptions, out: &mut dyn Write) -> Result<()> {
    options.ensure_each_once()?;
    if !options.trusted {
        let images: Vec<_> = options.on.iter().map(|debian| debian.machine()).collect();
        isolation::require(&images)?;
    }
    let machines = Machines::new(options)?;
    let cells = options.output.join("cells");
    if cells.exists() {
        fs::remove_dir_all(&cells).with_context(|| cells.display().to_string())?;
    }
    let (mut records, mut sets) = (Vec::new(), Vec::new());
    for &debian in &options.on {
        writeln!(out, "{debian}: installing the candidate on new machines, to compare with")?;
        let installed = machines.installed(debian);
        match &installed {
            Ok(installed) => writeln!(out, "{debian}: {}", machines.offered(installed))?,
            Err(error) => writeln!(out, "{debian}: the candidate cannot be installed on a new machine: {error:#}")?,
        }
        sets.extend(installed.as_ref().map(|installed| installed.set.clone()));
        for from in &options.from {
            for state in options.states() {
                let record = machines.upgrade(debian, from, &state, &installed, &cells)?;
                writeln!(out, "{}: {}, {} s", record.cell, verdict(&record), record.took / 1000)?;
                records.push(record);
            }
        }
    }
    table(&records, out)?;
    if let Some(directory) = &options.write_manifest {
        if records.iter().all(Record::passed) {
            sets.iter().try_for_each(|set| manifest::write(set, directory, out))?;
        } else {
            writeln!(out, "No package set was written: not every upgrade passed")?;
        }
    }
    let [html, junit, json] = ["report.html", "junit.xml", "summary.json"].map(|name| options.output.join(name));
    report::run(&cells, &ReportFiles { html, junit, json }, out)
}

fn verdict(record: &Record) -> &'static str {
    if record.passed() { "passed" } else { "FAILED" }
}

/// A row for each upgrade: its name, the verdict, seconds, and the first failure.
fn table(records: &[Record], out: &mut dyn Write) -> Result<()> {
    let width = records.iter().map(|record| record.cell.len()).max().unwrap_or_default();
    writeln!(out)?;
    for record in records {
        let failure = record.failures.first().map(|failure| in_short(failure)).unwrap_or_default();
        let row = format!("{:width$}  {}  {:>4} s  {failure}", record.cell, verdict(record), record.took / 1000);
        writeln!(out, "{}", row.trim_end())?;
    }
    writeln!(out)?;
    Ok(())
}

/// A failure in one line: its first line, and after a colon the error of the upgrader or the next line.
fn in_short(failure: &str) -> String {
    let mut lines = failure.lines().map(str::trim);
    let first = lines.next().unwrap_or_default();
    if !first.ends_with(':') {
        return first.to_owned();
    }
    let rest: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let error = rest.iter().find_map(|line| line.strip_prefix("error: ")).or(rest.first().copied());
    error.map_or_else(|| first.to_owned(), |error| format!("{first} {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_in_short_says_why() {
        let screen = "the exit code is 4, not 0:\nReading package lists\nerror: dpkg: it failed\nRolling back\n";
        assert_eq!(in_short(screen), "the exit code is 4, not 0: dpkg: it failed");
        assert_eq!(in_short("check failed: it is done:\n  a is 1\n  b is 2"), "check failed: it is done: a is 1");
        assert_eq!(in_short("the exit code is 1, not 0:\n"), "the exit code is 1, not 0:");
        assert_eq!(in_short("there is no machine: error 5"), "there is no machine: error 5");
    }
}
