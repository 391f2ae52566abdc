//! What a world and the upgrader cost.

mod devices;
mod exchange;
mod libraries;
mod matrix;
mod memory;
mod next_debian;
mod outage;
mod peers;
mod programs;
mod repository;
mod rollback;
mod speed;
mod worlds;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::machines::image::Debian;

/// How often each thing is measured. What counts is the median.
const RUNS: usize = 5;

/// Where the figures of the last run are, as JSON, from the root of this tree.
const RESULTS: &str = "target/bench/results.json";

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// How small and how quick to start the programs are
    Programs,
    /// How much memory a run needs
    Memory,
    /// How long a whole run takes beside the bare apt commands
    Speed,
    /// How long arming the rollback store and going back take, on each filesystem at hand
    Rollback,
    /// How long services are away beside a bare restart of them
    Outage,
    /// The hook for backup proxies on an exchange with 5,000 devices; needs Debian's mirror
    Devices,
    /// What a world costs around a run
    Worlds,
    /// What a cell of the matrix costs beside bare apt, and how many run in a minute
    Matrix,
    /// A cell beside piuparts on the same packages; needs Debian's mirror
    Peers,
    /// A repository of 1,000 packages beside Debian's own tools; needs Debian's mirror
    Repository,
    /// The scan for services that run replaced files beside needrestart's; needs Debian's mirror
    Libraries,
    /// How long it takes to go back from a real upgrade to the next Debian; needs Debian's mirror
    NextDebian,
}

/// Measures these subjects, or all that need nothing but this host if none is named, prints the figures, and writes them
/// to [`RESULTS`].
///
/// # Errors
/// If something could not be measured, or a limit was exceeded; then all figures are printed first.
pub fn run(subjects: &[Subject], out: &mut dyn Write) -> Result<()> {
    let mut subjects = subjects.to_vec();
    if subjects.is_empty() {
        let needs_mirror = |subject: &&Subject| {
            matches!(
                subject,
                Subject::Peers | Subject::Repository | Subject::Libraries | Subject::NextDebian | Subject::Devices
            )
        };
        subjects.extend(Subject::value_variants().iter().filter(|subject| !needs_mirror(subject)));
    }
    let mut sheet = Sheet { out, subject: String::new(), debian: None, title: String::new(), figures: Vec::new() };
    for subject in subjects {
        sheet.subject = subject.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        sheet.debian = None;
        if subject == Subject::Programs {
            programs::measure(&mut sheet)?;
        } else if subject == Subject::Rollback {
            rollback::measure(&mut sheet)?;
        } else if subject == Subject::NextDebian {
            next_debian::measure(&mut sheet)?;
        } else {
            for debian in Debian::ALL {
                sheet.debian = Some(debian.to_string());
                match subject {
                    Subject::Programs | Subject::Rollback | Subject::NextDebian => {}
                    Subject::Memory => memory::measure(debian, &mut sheet)?,
                    Subject::Speed => speed::measure(debian, &mut sheet)?,
                    Subject::Outage => outage::measure(debian, &mut sheet)?,
                    Subject::Devices => devices::measure(debian, &mut sheet)?,
                    Subject::Worlds => worlds::measure(debian, &mut sheet)?,
                    Subject::Matrix => matrix::measure(debian, &mut sheet)?,
                    Subject::Peers => peers::measure(debian, &mut sheet)?,
                    Subject::Repository => repository::measure(debian, &mut sheet)?,
                    Subject::Libraries => libraries::measure(debian, &mut sheet)?,
                }
            }
        }
        sheet.save()?;
    }
    let exceeded = sheet.figures.iter().filter(|figure| figure.kept == Some(false)).count();
    ensure!(exceeded == 0, "{exceeded} limits were exceeded");
    Ok(())
}

/// A figure of [`RESULTS`], which is a list of these.
#[derive(Debug, Serialize)]
struct Figure {
    /// What was measured, as it is called on the command line: `speed`.
    subject: String,
    /// On which release of Debian; null if on none.
    debian: Option<String>,
    /// What the figure is of, in words.
    what: String,
    /// Of what it is a number: `s`, `ms` or `MB`.
    unit: String,
    /// Our figure: the median if there are several.
    ours: f64,
    /// The same of what ours is compared with; null if it is with nothing.
    theirs: Option<f64>,
    /// The median of what ours, divided by theirs, is in each pair; null if there are none.
    ratio: Option<f64>,
    /// What the ratio, or else our figure, must not be above; null if there is no limit.
    limit: Option<f64>,
    /// True if it is not; null if there is no limit.
    kept: Option<bool>,
}

/// What figures are written on.
struct Sheet<'a> {
    out: &'a mut dyn Write,
    subject: String,
    debian: Option<String>,
    title: String,
    figures: Vec<Figure>,
}

impl Sheet<'_> {
    /// What the next figures are about.
    fn title(&mut self, title: &str) -> Result<()> {
        title.clone_into(&mut self.title);
        Ok(writeln!(self.out, "\n{title}")?)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.out, "  {line}")?)
    }

    /// A figure without a limit.
    fn figure(&mut self, what: &str, ours: f64, unit: &str) -> Result<()> {
        self.note(what, unit, ours, None, None, None);
        self.line(&format!("{what}: {ours:.2} {unit}"))
    }

    /// A figure beside that of others, without a limit.
    fn compared(&mut self, what: &str, ours: f64, theirs: f64, unit: &str) -> Result<()> {
        self.note(what, unit, ours, Some(theirs), Some(ours / theirs), None);
        self.line(&format!("{what}: {ours:.2} {unit}, {theirs:.2} {unit}: {:.0} times as fast", theirs / ours))
    }

    /// A figure that must not be above its limit.
    fn limited(&mut self, what: &str, ours: f64, limit: f64, unit: &str) -> Result<()> {
        let verdict = verdict(self.note(what, unit, ours, None, None, Some(limit)));
        self.line(&format!("{what}: {ours:.2} {unit} (limit {limit:.2} {unit}: {verdict})"))
    }

    /// Times that belong together two by two, what one divided by the other is in each pair, and the median of that, which
    /// must not be above its limit, if it has one.
    fn pairs(&mut self, names: [&str; 2], pairs: &[[Duration; 2]], limit: Option<f64>) -> Result<()> {
        let seconds: Vec<[f64; 2]> = pairs.iter().map(|pair| pair.map(|time| time.as_secs_f64())).collect();
        for [theirs, ours] in &seconds {
            self.line(&format!(
                "{}: {theirs:.3} s   {}: {ours:.3} s   ratio {:.2}",
                names[0],
                names[1],
                ours / theirs
            ))?;
        }
        let middle = |of: fn(&[f64; 2]) -> f64| median(seconds.iter().map(of).collect(), f64::total_cmp);
        let (theirs, ours, ratio) = (middle(|pair| pair[0]), middle(|pair| pair[1]), middle(|pair| pair[1] / pair[0]));
        let what = format!("{} beside {}", names[1], names[0]);
        let verdict = verdict(self.note(&what, "s", ours, Some(theirs), Some(ratio), limit));
        let limit = limit.map(|limit| format!(" (limit {limit:.2}: {verdict})")).unwrap_or_default();
        self.line(&format!("median of the ratios: {ratio:.2}{limit}"))
    }

    /// Keeps a figure for [`RESULTS`], and says whether its limit is kept.
    fn note(
        &mut self,
        what: &str,
        unit: &str,
        ours: f64,
        theirs: Option<f64>,
        ratio: Option<f64>,
        limit: Option<f64>,
    ) -> bool {
        let kept = limit.map(|limit| ratio.unwrap_or(ours) <= limit);
        self.figures.push(Figure {
            subject: self.subject.clone(),
            debian: self.debian.clone(),
            what: format!("{}: {what}", self.title),
            unit: unit.to_owned(),
            ours,
            theirs,
            ratio,
            limit,
            kept,
        });
        kept != Some(false)
    }

    /// Writes all figures so far to [`RESULTS`]. Those of subjects that were measured another time stay.
    fn save(&self) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(RESULTS);
        fs::create_dir_all(path.parent().context("no directory")?)?;
        let kept: Vec<Value> =
            fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let figures = merged(kept, &self.figures)?;
        fs::write(&path, serde_json::to_string_pretty(&figures)?).with_context(|| path.display().to_string())
    }
}

/// Figures of an earlier time with those of now in the place of what was measured again.
fn merged(mut figures: Vec<Value>, new: &[Figure]) -> Result<Vec<Value>> {
    figures.retain(|old| new.iter().all(|figure| old["subject"] != figure.subject));
    for figure in new {
        figures.push(serde_json::to_value(figure)?);
    }
    Ok(figures)
}

fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "EXCEEDED" }
}

fn median<T: Copy>(mut values: Vec<T>, order: impl Fn(&T, &T) -> std::cmp::Ordering) -> T {
    values.sort_by(order);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_for_the_median_of_the_ratios() {
        let pairs = [[10, 30], [10, 11], [20, 20]].map(|pair| pair.map(Duration::from_millis));
        let mut out = Vec::new();
        let mut sheet =
            Sheet { out: &mut out, subject: String::new(), debian: None, title: String::new(), figures: Vec::new() };
        sheet.pairs(["bare", "ours"], &pairs, Some(1.1)).unwrap();
        sheet.pairs(["bare", "ours"], &pairs, Some(1.09)).unwrap();
        sheet.limited("size", 2.0, 3.0, "MB").unwrap();
        sheet.figure("start", 1.5, "ms").unwrap();
        let kept: Vec<_> = sheet.figures.iter().map(|figure| figure.kept).collect();
        assert_eq!(kept, [Some(true), Some(false), Some(true), None]);
        sheet.figures.truncate(1);
        let subjects = |figures: &[Value]| figures.iter().map(|figure| figure["subject"].clone()).collect::<Vec<_>>();
        let kept = vec![serde_json::json!({"subject": "speed"}), serde_json::json!({"subject": ""})];
        assert_eq!(subjects(&merged(kept, &sheet.figures).unwrap()), ["speed", ""]);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("bare: 0.010 s   ours: 0.030 s   ratio 3.00\n"), "{text}");
        assert!(text.contains("median of the ratios: 1.10 (limit 1.10: kept)\n"), "{text}");
        assert!(text.contains("median of the ratios: 1.10 (limit 1.09: EXCEEDED)\n"), "{text}");
    }
}
