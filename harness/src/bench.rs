/// An exchange that is upgraded over and over.
mod exchange;
/// How quick the scan for services that run replaced files is.
mod libraries;
/// How much memory a run needs.
mod memory;
/// How long services are away.
mod outage;
/// How small and how quick to start the programs are.
mod programs;
/// How long a whole run takes.
mod speed;
/// What a world costs around a run.
mod worlds;

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::image::Debian;

/// How often each thing is measured. What counts is the median.
const RUNS: usize = 5;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// How small and how quick to start the programs are
    Programs,
    /// How much memory a run needs
    Memory,
    /// How long a whole run takes beside the bare apt commands
    Speed,
    /// How long services are away beside a bare restart of them
    Outage,
    /// What a world costs around a run
    Worlds,
    /// The scan for services that run replaced files beside needrestart's; needs Debian's mirror
    Libraries,
}

/// Measures these subjects, or all that need nothing but this host if none is named, and prints the figures.
///
/// # Errors
/// If something could not be measured, or a limit was exceeded; then all figures are printed first.
pub fn run(subjects: &[Subject], out: &mut dyn Write) -> Result<()> {
    let mut subjects = subjects.to_vec();
    if subjects.is_empty() {
        subjects.extend(Subject::value_variants().iter().filter(|subject| **subject != Subject::Libraries));
    }
    let mut exceeded = 0;
    for subject in subjects {
        let mut sheet = Sheet { out, exceeded: 0 };
        if subject == Subject::Programs {
            programs::measure(&mut sheet)?;
        } else {
            for debian in Debian::ALL {
                match subject {
                    Subject::Programs => {}
                    Subject::Memory => memory::measure(debian, &mut sheet)?,
                    Subject::Speed => speed::measure(debian, &mut sheet)?,
                    Subject::Outage => outage::measure(debian, &mut sheet)?,
                    Subject::Worlds => worlds::measure(debian, &mut sheet)?,
                    Subject::Libraries => libraries::measure(debian, &mut sheet)?,
                }
            }
        }
        exceeded += sheet.exceeded;
    }
    ensure!(exceeded == 0, "{exceeded} limits were exceeded");
    Ok(())
}

/// What figures are written on.
struct Sheet<'a> {
    out: &'a mut dyn Write,
    exceeded: usize,
}

impl Sheet<'_> {
    fn title(&mut self, title: &str) -> Result<()> {
        Ok(writeln!(self.out, "\n{title}")?)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.out, "  {line}")?)
    }

    /// A figure that must not be above its limit.
    fn limited(&mut self, what: &str, figure: f64, limit: f64, unit: &str) -> Result<()> {
        let kept = figure <= limit;
        self.exceeded += usize::from(!kept);
        let verdict = if kept { "kept" } else { "EXCEEDED" };
        self.line(&format!("{what}: {figure:.2}{unit} (limit {limit:.2}{unit}: {verdict})"))
    }

    /// Times that belong together two by two, what one divided by the other is in each pair, and the median of that, which
    /// must not be above its limit.
    fn pairs(&mut self, names: [&str; 2], pairs: &[[Duration; 2]], limit: f64) -> Result<()> {
        let mut ratios = Vec::new();
        for [bare, ours] in pairs {
            let (bare, ours) = (bare.as_secs_f64(), ours.as_secs_f64());
            ratios.push(ours / bare);
            self.line(&format!("{}: {bare:.3} s   {}: {ours:.3} s   ratio {:.2}", names[0], names[1], ours / bare))?;
        }
        self.limited("median of the ratios", median(ratios, f64::total_cmp), limit, "")
    }
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
        let mut sheet = Sheet { out: &mut out, exceeded: 0 };
        sheet.pairs(["bare", "ours"], &pairs, 1.1).unwrap();
        sheet.pairs(["bare", "ours"], &pairs, 1.09).unwrap();
        assert_eq!(sheet.exceeded, 1);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("bare: 0.010 s   ours: 0.030 s   ratio 3.00\n"), "{text}");
        assert!(text.contains("median of the ratios: 1.10 (limit 1.10: kept)\n"), "{text}");
        assert!(text.contains("median of the ratios: 1.10 (limit 1.09: EXCEEDED)\n"), "{text}");
    }
}
