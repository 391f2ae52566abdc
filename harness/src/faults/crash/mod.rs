//! A run that is cut short anywhere, and what becomes of the machine.

mod call;
mod database;
pub mod next_debian;
mod point;
mod reference;
mod scene;
mod strike;
mod whole;

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use regex::Regex;
use serde::Serialize;

use self::point::{Point, Verdict, all, are_distinct};
use self::reference::Reference;
use self::scene::Stage;
use crate::machines::image::Debian;
use crate::machines::machine::Storage;
use crate::packages::binaries;

/// Points of every kind, for every run of the tests.
pub const CHOSEN: [&str; 7] = [
    "write:9:resume",
    "write:9:boot",
    "dpkg:4:fsync:1",
    "script:xivo-agid.prerm:all",
    "power:start:xivo-provd:back:again",
    "full:packages:/var",
    "migration:fails",
];

/// Some more on the host's filesystem, where what is kept to go back are hard links.
pub const CHOSEN_ON_HOST: [&str; 3] = ["write:520:run", "write:54:back", "power:script:xivo-agid.postinst:alone"];

/// Which points are run, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Only those whose names match this
    #[arg(long, value_name = "REGEX")]
    only: Option<Regex>,
    /// How many machines run at once [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Have /usr and /var on the host's filesystem: what is needed to go back is then kept as hard links, as on most machines in the field,
    /// and not copied as in the engine's layers
    #[arg(long)]
    on_host: bool,
    /// Say which points there are, and do nothing
    #[arg(long)]
    list: bool,
}

/// What came of it: `target/crash/results.json`.
#[derive(Debug, Default, Serialize)]
struct Results {
    points: usize,
    completed: usize,
    rolled_back: usize,
    diverged: Vec<Diverged>,
}

/// A point after which the machine was neither the old nor the new one.
#[derive(Debug, Serialize)]
struct Diverged {
    point: String,
    paths: Vec<String>,
    /// What runs just this one again.
    command: String,
}

/// A Debian's machines, and what undisturbed runs on them are like.
struct Ground {
    stage: Stage,
    reference: Reference,
}

impl Ground {
    fn of(debian: Debian, disk: Storage) -> Result<Self> {
        let stage = Stage::set(debian, disk)?;
        let reference = Reference::of(debian, &stage)?;
        Ok(Self { stage, reference })
    }
}

/// Runs the points, tells of each, and keeps the results.
///
/// # Errors
/// If a point diverged, after all have run.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<()> {
    let disk = if options.on_host { Storage::Host } else { Storage::Layers };
    let grounds = Debian::ALL.map(|_| OnceLock::<Result<Ground, String>>::new());
    let ground = |debian: Debian| {
        let ground =
            grounds[debian as usize].get_or_init(|| Ground::of(debian, disk).map_err(|error| format!("{error:?}")));
        ground.as_ref().map_err(|error| anyhow!("{error}"))
    };
    let mut points = all(&ground(Debian::Bookworm)?.reference);
    are_distinct(&points)?;
    points.retain(|point| options.only.as_ref().is_none_or(|only| only.is_match(&point.name)));
    if options.list {
        return points.iter().try_for_each(|point| Ok(writeln!(out, "{} ({})", point.name, point.debian)?));
    }
    ensure!(!points.is_empty(), "no point has such a name");
    let mut results = Results { points: points.len(), ..Results::default() };
    let todo = Mutex::new(VecDeque::from(points));
    let next = || todo.lock().ok()?.pop_front();
    let jobs = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    std::thread::scope(|scope| -> Result<()> {
        let (tell, told) = mpsc::channel();
        for _ in 0..jobs {
            let (tell, next, ground) = (tell.clone(), &next, &ground);
            scope.spawn(move || {
                while let Some(point) = next() {
                    let begin = Instant::now();
                    let ran = ground(point.debian).and_then(|ground| examine(&point, ground));
                    if tell.send((point, ran, begin.elapsed().as_secs())).is_err() {
                        break;
                    }
                }
            });
        }
        drop(tell);
        for (number, (point, ran, seconds)) in told.into_iter().enumerate() {
            let verdict = ran.unwrap_or_else(|error| Verdict::Diverged(vec![format!("{error:?}")]));
            let word = match verdict {
                Verdict::Completed => {
                    results.completed += 1;
                    "completed"
                }
                Verdict::RolledBack => {
                    results.rolled_back += 1;
                    "rolled back"
                }
                Verdict::Diverged(paths) => {
                    results.diverged.push(Diverged {
                        command: again(&point.name, disk),
                        point: point.name.clone(),
                        paths,
                    });
                    "DIVERGED"
                }
            };
            writeln!(
                out,
                "{:>4} of {}  {:<40} {:<8} {seconds:>3} s  {word}",
                number + 1,
                results.points,
                point.name,
                point.debian
            )?;
        }
        Ok(())
    })?;
    keep(&results)?;
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

/// Runs one point, on the older Debian. Of the writes, of which there are more when Debian's packages have more files, it is the one nearest
/// to the number in the name.
///
/// # Errors
/// If there is none of that name, or it diverged.
pub fn check(name: &str, disk: Storage) -> Result<()> {
    let ground = Ground::of(Debian::Bookworm, disk)?;
    let points = all(&ground.reference).into_iter();
    let nearest = points.filter_map(|point| Some((distance(&point.name, name)?, point))).min_by_key(|(by, _)| *by);
    let (_, mut point) = nearest.with_context(|| format!("there is no point {name}"))?;
    point.debian = Debian::Bookworm;
    match examine(&point, &ground)? {
        Verdict::Completed | Verdict::RolledBack => Ok(()),
        Verdict::Diverged(paths) => {
            Err(anyhow!("{name} diverged:\n{}\nOnce more: {}", paths.join("\n"), again(name, disk)))
        }
    }
}

/// By how many numbers the name of a point is another one: `write:40:run` is by 3 from `write:37:run`. `None` if it is of another kind.
fn distance(name: &str, wanted: &str) -> Option<u32> {
    fn write(name: &str) -> Option<(u32, &str)> {
        let (number, scene) = name.strip_prefix("write:")?.split_once(':')?;
        Some((number.parse().ok()?, scene))
    }
    match write(name).zip(write(wanted)) {
        Some(((one, scene), (other, wanted))) => (scene == wanted).then(|| one.abs_diff(other)),
        None => (name == wanted).then_some(0),
    }
}

/// Runs a point. What was seen of one that diverged is kept.
fn examine(point: &Point, ground: &Ground) -> Result<Verdict> {
    let (verdict, story) = point.run(&ground.stage, &ground.reference)?;
    if let Verdict::Diverged(paths) = &verdict {
        let directory = binaries::target().join("crash/diverged");
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        fs::write(directory.join(point.name.replace([':', '/'], "-")), format!("{}\n\n{story}", paths.join("\n")))?;
    }
    Ok(verdict)
}

/// The command that runs a point again.
fn again(name: &str, disk: Storage) -> String {
    let disk = if disk == Storage::Host { " --on-host" } else { "" };
    format!("cargo run --quiet --package harness -- crash{disk} --only '^{}$'", name.replace('.', r"\."))
}

fn keep(results: &Results) -> Result<()> {
    let path = binaries::target().join("crash/results.json");
    fs::write(&path, serde_json::to_string_pretty(results)?).with_context(|| path.display().to_string())
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
