//! Attacks: an unprivileged account works against the upgrader while an admin upgrades or rolls back. Each must fail, and must not keep the
//! machine from being upgraded afterwards.

mod case;
mod definition;
mod fixture;

use std::io::Write;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use self::case::AttackCase;
use self::definition::Attack;
use self::fixture::AttackFixture;
use crate::at_once::each;
use crate::data::{self, one_line};
use crate::machines::image::Debian;
use crate::packages::binaries;

/// Which attacks run.
#[derive(Debug, Clone, clap::Args)]
pub struct AttackOptions {
    /// Only those that have one of these in their names
    parts: Vec<String>,
    /// Only on this Debian release
    #[arg(long, value_enum)]
    debian: Option<Debian>,
    /// How many machines run at once
    #[arg(long, value_name = "N", default_value_t = 3)]
    jobs: usize,
}

/// What came of them: `target/attacks/results.json`.
#[derive(Debug, Default, Serialize)]
struct AttackResults {
    total: usize,
    /// How many attacks succeeded, or could not be run.
    failed: usize,
    attacks: Vec<AttackResult>,
}

#[derive(Debug, Serialize)]
struct AttackResult {
    name: String,
    debian: String,
    kind: String,
    /// `held`, `succeeded`, or `not run`.
    result: &'static str,
    seconds: u64,
    why: Vec<String>,
    transcripts: Vec<String>,
}

impl AttackOptions {
    fn has(&self, name: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|part| name.contains(part))
    }
}

/// An attack that every run of the tests makes.
#[derive(Debug, Clone)]
pub struct ChosenAttack(AttackCase);

impl ChosenAttack {
    /// All of them, with the names of their tests.
    pub fn all() -> Result<Vec<(String, Self)>> {
        let chosen = Attack::all()?.into_iter().filter(|(_, attack)| attack.chosen);
        let cases = chosen.zip(Debian::ALL.into_iter().cycle());
        Ok(cases.map(|((name, attack), debian)| (name.clone(), Self(AttackCase { name, attack, debian }))).collect())
    }

    /// Makes it.
    ///
    /// # Errors
    /// If the attack succeeds, or cannot be made.
    pub fn check(&self) -> Result<()> {
        let outcome = self.0.perform(&AttackFixture::make(self.0.debian)?)?;
        let (wrong, transcripts) = (outcome.wrong.join("\n"), outcome.transcripts.join("\n"));
        ensure!(wrong.is_empty(), "{}: {}\n{wrong}\n{transcripts}", self.0, one_line(&self.0.attack.description));
        Ok(())
    }
}

/// Makes the attacks, writes the results, and prints a table.
///
/// # Errors
/// If one succeeded or could not be made, after all were made.
pub fn run(options: &AttackOptions, out: &mut dyn Write) -> Result<()> {
    let debians: Vec<Debian> =
        Debian::ALL.into_iter().filter(|one| options.debian.is_none_or(|only| only == *one)).collect();
    let mut cases = Vec::new();
    for (name, attack) in Attack::all()?.into_iter().filter(|(name, _)| options.has(name)) {
        cases.extend(debians.iter().map(|debian| AttackCase {
            name: name.clone(),
            attack: attack.clone(),
            debian: *debian,
        }));
    }
    ensure!(!cases.is_empty(), "no attack has {} in its name", options.parts.join(" or "));
    let fixtures =
        debians.iter().map(|debian| Ok((*debian, AttackFixture::make(*debian)?))).collect::<Result<Vec<_>>>()?;
    let fixture = |case: &AttackCase| {
        let found = fixtures.iter().find(|(debian, _)| *debian == case.debian);
        found.map(|(_, fixture)| fixture).context("a Debian release without a machine")
    };
    let mut results = AttackResults::default();
    let count = cases.len();
    each(
        cases,
        options.jobs.max(1),
        |case| fixture(case).and_then(|fixture| case.perform(fixture)),
        |case, outcome, seconds| {
            let (result, why, transcripts) = match outcome {
                Ok(outcome) => {
                    let result = if outcome.wrong.is_empty() { "held" } else { "succeeded" };
                    (result, outcome.wrong, outcome.transcripts)
                }
                Err(error) => ("not run", vec![format!("{error:#}")], Vec::new()),
            };
            results.total += 1;
            results.failed += usize::from(result != "held");
            writeln!(out, "{:>3}/{count}  {:<44} {seconds:>3} s  {result}", results.total, case.to_string())?;
            let (debian, kind) = (case.debian.to_string(), case.kind().to_string());
            results.attacks.push(AttackResult { name: case.name, debian, kind, result, seconds, why, transcripts });
            // After each, so that an interrupted run has results, too.
            let text = serde_json::to_string_pretty(&results)?;
            data::write(&binaries::target().join("attacks/results.json"), text)
        },
    )?;
    results.table(out)?;
    if results.failed > 0 {
        bail!("{} of {} attacks did not hold", results.failed, results.total);
    }
    Ok(())
}

impl AttackResults {
    /// The table of all attacks, in the order of their names.
    fn table(&mut self, out: &mut dyn Write) -> Result<()> {
        self.attacks.sort_by(|one, other| (&one.name, &one.debian).cmp(&(&other.name, &other.debian)));
        writeln!(out, "\n{:<34} {:<9} {:<12} {:<10} {:>4}", "attack", "Debian", "kind", "result", "s")?;
        for AttackResult { name, debian, kind, result, seconds, why, .. } in &self.attacks {
            writeln!(out, "{name:<34} {debian:<9} {kind:<12} {result:<10} {seconds:>4}")?;
            why.iter().try_for_each(|line| writeln!(out, "        {}", one_line(line)))?;
        }
        Ok(writeln!(out, "{} attacks: {} held, {} did not", self.total, self.total - self.failed, self.failed)?)
    }
}
