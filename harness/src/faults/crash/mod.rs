//! Injects a fault at every point of an upgrade: the machine must then be the old one or the upgraded one.

mod call;
mod database;
mod fixture;
mod injection;
mod injection_point;
pub mod next_debian;
mod phase;
mod phase_end;
mod reference;

use std::io::Write;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use regex::Regex;
use serde::Serialize;

use self::fixture::Fixture;
use self::injection_point::{CrashOutcome, InjectionPoint, all};
use self::reference::Reference;
use crate::at_once::each;
use crate::data;
use crate::machines::image::Debian;
use crate::machines::machine::Storage;
use crate::packages::binaries;

/// Injection points of every kind, for every run of the tests.
pub const CHOSEN: [&str; 7] = [
    "write:9:resume",
    "write:9:boot",
    "dpkg:4:fsync:1",
    "script:xivo-agid.prerm:all",
    "power:start:xivo-provd:back:again",
    "full:packages:/var",
    "migration:fails",
];

/// Some more on the host's filesystem, where rollback data are hard links.
pub const CHOSEN_ON_HOST: [&str; 3] = ["write:520:run", "write:54:back", "power:script:xivo-agid.postinst:alone"];

/// Which injection points are run, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct CrashOptions {
    /// Only those whose names match this
    #[arg(long, value_name = "REGEX")]
    only: Option<Regex>,
    /// How many machines run at once [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// List the injection points and run none
    #[arg(long)]
    list: bool,
}

/// The content of `target/crash/results.json`.
#[derive(Debug, Default, Serialize)]
struct CrashResults {
    points: usize,
    completed: usize,
    rolled_back: usize,
    diverged: Vec<Diverged>,
}

/// An injection point after which the machine was neither the old nor the upgraded one.
#[derive(Debug, Serialize)]
struct Diverged {
    point: String,
    paths: Vec<String>,
    /// The command that runs this one again.
    command: String,
}

/// The machines of one Debian, and its reference runs.
struct Setup {
    fixture: Fixture,
    reference: Reference,
}

impl Setup {
    fn of(debian: Debian, disk: Storage) -> Result<Self> {
        let fixture = Fixture::new(debian, disk)?;
        let reference = Reference::of(debian, &fixture)?;
        Ok(Self { fixture, reference })
    }
}

/// Runs the injection points, prints each outcome, and saves the results. Fails at the end if one diverged.
pub fn run(options: &CrashOptions, out: &mut dyn Write) -> Result<()> {
    let disk = Storage::wanted()?;
    let setups = Debian::ALL.map(|_| OnceLock::<Result<Setup, String>>::new());
    let setup = |debian: Debian| {
        let setup =
            setups[debian as usize].get_or_init(|| Setup::of(debian, disk).map_err(|error| format!("{error:?}")));
        setup.as_ref().map_err(|error| anyhow!("{error}"))
    };
    let mut points = all(&setup(Debian::Bookworm)?.reference);
    let twice = data::repeated(points.iter().map(|point| &point.name));
    ensure!(twice.is_none(), "two points have one name: {twice:?}");
    points.retain(|point| options.only.as_ref().is_none_or(|only| only.is_match(&point.name)));
    if options.list {
        return points.iter().try_for_each(|point| Ok(writeln!(out, "{} ({})", point.name, point.debian)?));
    }
    ensure!(!points.is_empty(), "no point has such a name");
    let mut results = CrashResults { points: points.len(), ..CrashResults::default() };
    let jobs = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let run = |point: &InjectionPoint| setup(point.debian).and_then(|setup| examine(point, setup));
    let mut number = 0;
    each(points, jobs, run, |InjectionPoint { name, debian, .. }, ran, seconds| {
        number += 1;
        let word = match ran.unwrap_or_else(|error| CrashOutcome::Diverged(vec![format!("{error:?}")])) {
            CrashOutcome::Completed => {
                results.completed += 1;
                "completed"
            }
            CrashOutcome::RolledBack => {
                results.rolled_back += 1;
                "rolled back"
            }
            CrashOutcome::Diverged(paths) => {
                results.diverged.push(Diverged { command: again(&name, disk), point: name.clone(), paths });
                "DIVERGED"
            }
        };
        let total = results.points;
        Ok(writeln!(out, "{number:>4} of {total}  {name:<40} {debian:<8} {seconds:>3} s  {word}")?)
    })?;
    data::write(&binaries::target().join("crash/results.json"), serde_json::to_string_pretty(&results)?)?;
    for Diverged { point, paths, command } in &results.diverged {
        writeln!(out, "\n{point} diverged:")?;
        paths.iter().take(10).try_for_each(|path| writeln!(out, "  {path}"))?;
        writeln!(out, "  Once more: {command}")?;
    }
    let good = results.completed + results.rolled_back;
    writeln!(
        out,
        "{good} of {}: {} completed, {} rolled back",
        results.points, results.completed, results.rolled_back
    )?;
    ensure!(results.diverged.is_empty(), "{} diverged", results.diverged.len());
    Ok(())
}

/// Runs one injection point on the older Debian, and fails if it diverges. How many writes there are depends on Debian's packages, so the one
/// with the nearest number is taken.
pub fn check(name: &str, disk: Storage) -> Result<()> {
    let setup = Setup::of(Debian::Bookworm, disk)?;
    let points = all(&setup.reference).into_iter();
    let nearest = points.filter_map(|point| Some((distance(&point.name, name)?, point))).min_by_key(|(by, _)| *by);
    let (_, mut point) = nearest.with_context(|| format!("there is no point {name}"))?;
    point.debian = Debian::Bookworm;
    if let CrashOutcome::Diverged(paths) = examine(&point, &setup)? {
        bail!("{name} diverged:\n{}\nOnce more: {}", paths.join("\n"), again(name, disk));
    }
    Ok(())
}

/// The distance between the names of two injection points: `write:40:run` is by 3 from `write:37:run`. `None` if it is of another kind.
fn distance(name: &str, wanted: &str) -> Option<u32> {
    fn write(name: &str) -> Option<(u32, &str)> {
        let (number, phase) = name.strip_prefix("write:")?.split_once(':')?;
        Some((number.parse().ok()?, phase))
    }
    match write(name).zip(write(wanted)) {
        Some(((one, phase), (other, wanted))) => (phase == wanted).then(|| one.abs_diff(other)),
        None => (name == wanted).then_some(0),
    }
}

/// Runs an injection point. The log of one that diverged is saved.
fn examine(point: &InjectionPoint, setup: &Setup) -> Result<CrashOutcome> {
    let (outcome, log) = point.run(&setup.fixture, &setup.reference)?;
    if let CrashOutcome::Diverged(paths) = &outcome {
        let file = binaries::target().join("crash/diverged").join(point.name.replace([':', '/'], "-"));
        data::write(&file, format!("{}\n\n{log}", paths.join("\n")))?;
    }
    Ok(outcome)
}

/// The command that runs an injection point again.
fn again(name: &str, disk: Storage) -> String {
    format!("STORAGE={disk} cargo run --quiet --package harness -- crash --only '^{}$'", name.replace('.', r"\."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_have_neighbours() {
        assert_eq!(distance("write:37:run", "write:40:run"), Some(3));
        assert_eq!(distance("write:40:back", "write:40:run"), None);
        assert_eq!(distance("script:a.postinst", "script:a.postinst"), Some(0));
        assert_eq!(distance("script:a.postinst", "script:a.prerm"), None);
        assert_eq!(distance("script:a.postinst", "write:40:run"), None);
    }
}
