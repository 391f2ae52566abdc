//! Reports of a matrix or a gate: HTML, `JUnit` and JSON.

mod html;
mod junit;
mod summary;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anstream::adapter::strip_str;
use anyhow::{Context, Result, ensure};
use clap::Args;
use jiff::Timestamp;

use crate::data;
use crate::matrix::record::Record;

/// The failure of a cell without a record.
const INTERRUPTED: &str = "It left no record: it was interrupted.";

/// The files that a report is written to.
#[derive(Debug, Args)]
pub struct ReportFiles {
    /// The page for people: one file that needs nothing else
    #[arg(long, value_name = "FILE", default_value = "target/matrix/report.html")]
    pub html: PathBuf,
    /// The report as CI servers read it
    #[arg(long, value_name = "FILE", default_value = "target/matrix/junit.xml")]
    pub junit: PathBuf,
    /// The results as one JSON document
    #[arg(long, value_name = "FILE", default_value = "target/matrix/summary.json")]
    pub json: PathBuf,
}

/// Writes a report of the records in a directory, and prints one line. Then fails if a cell did.
pub fn run(directory: &Path, files: &ReportFiles, out: &mut dyn Write) -> Result<()> {
    let report = Report::read(directory)?;
    data::write(&files.html, html::page(&report))?;
    data::write(&files.junit, junit::document(&report)?)?;
    data::write(&files.json, summary::document(&report)?)?;
    let (total, failed) = (report.total(), report.failed());
    writeln!(out, "{total} cells: {} passed, {failed} failed: {}", total - failed, files.html.display())?;
    ensure!(failed == 0, "{failed} of {total} cells failed");
    Ok(())
}

/// The records of a matrix.
struct Report {
    /// The cells that left a record, in the order of their places.
    cells: Vec<Cell>,
    /// The directories of the cells that left none.
    interrupted: Vec<String>,
    /// When the last record was written.
    ended: Timestamp,
}

/// A cell that left a record.
struct Cell {
    /// The name of its directory.
    directory: String,
    record: Record,
    logs: Vec<Log>,
}

/// A log of a machine.
struct Log {
    name: String,
    /// All of it, without escape sequences.
    text: String,
}

impl Report {
    fn read(directory: &Path) -> Result<Self> {
        let (mut cells, mut interrupted, mut ended) = (Vec::new(), Vec::new(), Timestamp::UNIX_EPOCH);
        let nothing = || format!("{}: there are no records; the matrix has not run", directory.display());
        for entry in fs::read_dir(directory).with_context(nothing)? {
            let path = entry?.path();
            if !path.is_dir() {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let file = path.join("record.json");
            match fs::read(&file) {
                Ok(record) => {
                    let context = || file.display().to_string();
                    let record: Record = serde_json::from_slice(&record).with_context(context)?;
                    ended = ended.max(fs::metadata(&file)?.modified()?.try_into().with_context(context)?);
                    let logs = record.logs.iter().map(|log| Log::read(&path, log)).collect::<Result<_>>()?;
                    cells.push(Cell { directory: name, record, logs });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => interrupted.push(name),
                Err(error) => return Err(error).context(file.display().to_string()),
            }
        }
        ensure!(!cells.is_empty() || !interrupted.is_empty(), nothing());
        cells.sort_by(|a, b| (&a.record.place, &a.record.cell).cmp(&(&b.record.place, &b.record.cell)));
        interrupted.sort();
        Ok(Self { cells, interrupted, ended })
    }

    fn total(&self) -> usize {
        self.cells.len() + self.interrupted.len()
    }

    fn failed(&self) -> usize {
        self.cells.iter().filter(|cell| !cell.record.passed()).count() + self.interrupted.len()
    }
}

impl Log {
    fn read(directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join(name);
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(Self { name: name.to_owned(), text: strip_str(&String::from_utf8_lossy(&bytes)).to_string() })
    }
}

#[cfg(test)]
mod tests {
    use std::io::sink;

    use super::*;
    use crate::matrix::record::Place;

    /// A cell of a scenario on a release of Debian.
    pub(super) fn cell(scenario: &str, debian: &str, failures: &[&str]) -> Cell {
        let [from, to, state, fault, answer] = ["1.2.1", "1.2.2", "fresh", "none", "yes"].map(str::to_owned);
        let (scenario, debian) = (scenario.to_owned(), debian.to_owned());
        let record = Record {
            cell: format!("{scenario}::{debian}"),
            again: format!("cargo nextest run {scenario}::{debian}"),
            place: Place { scenario, from, to, debian, state, fault, answer },
            explanation: vec!["A machine is upgraded.".to_owned()],
            failures: failures.iter().map(|&failure| failure.to_owned()).collect(),
            checked: vec!["exit code".to_owned()],
            took: 41_250,
            run: 9_310,
            exit: Some(0),
            screen: "$ xivo-upgrade\nDone\n".to_owned(),
            ..Record::default()
        };
        Cell { directory: record.cell.replace("::", "--"), record, logs: Vec::new() }
    }

    /// A report of three cells: one passed, one failed, one was interrupted.
    pub(super) fn report() -> Report {
        Report {
            cells: vec![cell("upgrade", "bookworm", &[]), cell("upgrade", "trixie", &["asterisk is down."])],
            interrupted: vec!["rollback--trixie".to_owned()],
            ended: Timestamp::UNIX_EPOCH,
        }
    }

    /// A directory with these cells in it.
    fn directory(cells: &[Cell]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for cell in cells {
            let path = directory.path().join(&cell.directory);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("record.json"), serde_json::to_vec(&cell.record).unwrap()).unwrap();
        }
        directory
    }

    fn files(directory: &Path) -> ReportFiles {
        let [html, junit, json] = ["new/page.html", "junit.xml", "summary.json"].map(|name| directory.join(name));
        ReportFiles { html, junit, json }
    }

    #[test]
    fn all_files_are_written_and_one_line_is_printed() {
        let directory = directory(&[cell("upgrade", "bookworm", &[]), cell("upgrade", "trixie", &[])]);
        let (files, mut out) = (files(directory.path()), Vec::new());
        run(directory.path(), &files, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("2 cells: 2 passed, 0 failed: {}\n", files.html.display()));
        for file in [files.html, files.junit, files.json] {
            assert!(fs::metadata(&file).unwrap().len() > 0, "{}", file.display());
        }
    }

    #[test]
    fn a_failure_is_an_error_after_the_report_is_written() {
        let mut broken = vec![cell("upgrade", "bookworm", &["asterisk is down."]), cell("upgrade", "trixie", &[])];
        let failed = directory(&broken);
        let written = files(failed.path());
        let error = run(failed.path(), &written, &mut sink()).unwrap_err();
        assert_eq!(error.to_string(), "1 of 2 cells failed");
        assert!(written.html.exists());
        broken[0].record.failures.clear();
        let interrupted = directory(&broken);
        fs::create_dir(interrupted.path().join("rollback--trixie")).unwrap();
        let error = run(interrupted.path(), &files(interrupted.path()), &mut sink()).unwrap_err();
        assert_eq!(error.to_string(), "1 of 3 cells failed");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = |directory: &Path| format!("{:#}", run(directory, &files(directory), &mut sink()).unwrap_err());
        let directory = directory(&[cell("upgrade", "bookworm", &[])]);
        let record = directory.path().join("upgrade--bookworm/record.json");
        let text = fs::read_to_string(&record).unwrap();
        fs::write(&record, text.replacen("\"logs\":[]", "\"logs\":[\"dpkg.log\"]", 1)).unwrap();
        let message = error(directory.path());
        assert!(message.contains("upgrade--bookworm/dpkg.log"), "{message}");
        fs::write(&record, text.replacen("\"took\":", "\"took_ms\":", 1)).unwrap();
        let message = error(directory.path());
        assert!(message.contains("record.json: unknown field `took_ms`"), "{message}");
        assert!(message.contains("at line 1 column"), "{message}");
        let empty = tempfile::tempdir().unwrap();
        assert!(error(empty.path()).contains("there are no records"));
        assert!(error(&empty.path().join("none")).contains("there are no records"));
    }

    #[test]
    fn a_log_is_text_whatever_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("term.log"), b"\x1b[32mok\x1b[0m \xff\n").unwrap();
        assert_eq!(Log::read(directory.path(), "term.log").unwrap().text, "ok \u{fffd}\n");
    }
}
