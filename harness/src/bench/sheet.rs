//! The figures of a benchmark: medians, ratios and limits, on the screen and as JSON.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::data;
use crate::machines::image::Debian;

/// The figures of the last run, as a JSON list, from the root of this tree.
const RESULTS: &str = "target/bench/results.json";

/// A figure of [`RESULTS`].
#[derive(Debug, Clone, Default, Serialize)]
struct Figure {
    /// What was measured, as on the command line: `speed`.
    subject: String,
    /// The release of Debian; null if there is none.
    debian: Option<String>,
    /// What the figure is of, in words.
    what: String,
    /// `s` or `MB`.
    unit: String,
    /// Our figure: the median if there are several.
    ours: f64,
    /// The figure that ours is compared with; null if there is none.
    theirs: Option<f64>,
    /// The median of the ratios, ours by theirs; null if ours is compared with nothing.
    ratio: Option<f64>,
    /// The limit of the ratio or else of our figure; null if there is none.
    limit: Option<f64>,
    /// Whether the limit is kept; null if there is none.
    kept: Option<bool>,
}

/// Collects and prints figures.
pub(super) struct Sheet<'a> {
    out: &'a mut dyn Write,
    /// The subject, Debian and title of the next figures.
    next: Figure,
    figures: Vec<Figure>,
}

impl<'a> Sheet<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, next: Figure::default(), figures: Vec::new() }
    }

    /// The next figures are of this subject.
    pub(super) fn begin(&mut self, subject: &str, debian: Option<Debian>) {
        let debian = debian.map(|debian| debian.to_string());
        self.next = Figure { subject: subject.to_owned(), debian, ..Figure::default() };
    }

    /// Prints what the next figures are about.
    pub(super) fn title(&mut self, title: &str) -> Result<()> {
        let debian = self.next.debian.as_ref().map(|debian| format!(" on {debian}")).unwrap_or_default();
        self.next.what = format!("{title}{debian}");
        Ok(writeln!(self.out, "\n{}", self.next.what)?)
    }

    /// A figure that must not be above its limit.
    pub(super) fn limited(&mut self, what: &str, ours: f64, limit: f64, unit: &str) -> Result<()> {
        let verdict = self.add(what, unit, Figure { ours, limit: Some(limit), ..self.next.clone() });
        Ok(writeln!(self.out, "  {what}: {ours:.2} {unit} (limit {limit:.2} {unit}: {verdict})")?)
    }

    /// Times of others and of ours, measured in turns. The limit, if there is one, is for the median of the ratios.
    pub(super) fn pairs(&mut self, names: [&str; 2], pairs: &[[Duration; 2]], limit: Option<f64>) -> Result<()> {
        let seconds: Vec<[f64; 2]> = pairs.iter().map(|pair| pair.map(|time| time.as_secs_f64())).collect();
        for [theirs, ours] in &seconds {
            let ratio = ours / theirs;
            writeln!(self.out, "  {}: {theirs:.3} s   {}: {ours:.3} s   ratio {ratio:.2}", names[0], names[1])?;
        }
        let middle = |of: fn(&[f64; 2]) -> f64| median(seconds.iter().map(of).collect());
        let (theirs, ours, ratio) = (middle(|pair| pair[0]), middle(|pair| pair[1]), middle(|pair| pair[1] / pair[0]));
        let figure = Figure { ours, theirs: Some(theirs), ratio: Some(ratio), limit, ..self.next.clone() };
        let verdict = self.add(&format!("{} beside {}", names[1], names[0]), "s", figure);
        let limit = limit.map(|limit| format!(" (limit {limit:.2}: {verdict})")).unwrap_or_default();
        Ok(writeln!(self.out, "  median of the ratios: {ratio:.2}{limit}")?)
    }

    /// Adds a figure, and says whether its limit is kept.
    fn add(&mut self, what: &str, unit: &str, mut figure: Figure) -> &'static str {
        figure.what = format!("{}: {what}", figure.what);
        unit.clone_into(&mut figure.unit);
        figure.kept = figure.limit.map(|limit| figure.ratio.unwrap_or(figure.ours) <= limit);
        let verdict = if figure.kept == Some(false) { "EXCEEDED" } else { "kept" };
        self.figures.push(figure);
        verdict
    }

    /// How many limits were exceeded.
    pub(super) fn exceeded(&self) -> usize {
        self.figures.iter().filter(|figure| figure.kept == Some(false)).count()
    }

    /// Writes all figures so far to [`RESULTS`]. Earlier figures of other subjects stay there.
    pub(super) fn save(&self) -> Result<()> {
        let path = data::tree(RESULTS);
        let earlier = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let figures = merged(earlier, &self.figures)?;
        data::write(&path, serde_json::to_string_pretty(&figures)?)
    }
}

/// Earlier figures, without those of the subjects that were measured again, and the new ones.
fn merged(mut figures: Vec<Value>, new: &[Figure]) -> Result<Vec<Value>> {
    figures.retain(|old| new.iter().all(|figure| old["subject"] != figure.subject));
    for figure in new {
        figures.push(serde_json::to_value(figure)?);
    }
    Ok(figures)
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_for_the_median_of_the_ratios() {
        let pairs = [[10, 30], [10, 11], [20, 20]].map(|pair| pair.map(Duration::from_millis));
        let mut out = Vec::new();
        let mut sheet = Sheet::new(&mut out);
        sheet.pairs(["bare", "ours"], &pairs, Some(1.1)).unwrap();
        sheet.pairs(["bare", "ours"], &pairs, Some(1.09)).unwrap();
        sheet.limited("size", 2.0, 3.0, "MB").unwrap();
        sheet.pairs(["bare", "ours"], &pairs, None).unwrap();
        let kept: Vec<_> = sheet.figures.iter().map(|figure| figure.kept).collect();
        assert_eq!(kept, [Some(true), Some(false), Some(true), None]);
        assert_eq!(sheet.exceeded(), 1);
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
