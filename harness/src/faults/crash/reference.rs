//! Undisturbed runs.

use std::fs::{self, File};
use std::thread::ScopedJoinHandle;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::call::{self, Call};
use super::database;
use super::scene::{Scene, Stage};
use super::strike::{COUNTED, count};
use super::whole::{self, Whole};
use crate::machines::image::Debian;
use crate::packages::binaries;

/// What undisturbed runs on machines of one Debian were like: what every point ends as, and what can be interrupted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reference {
    /// The machine before it is upgraded.
    pub(super) old: Whole,
    /// The machine after it.
    pub(super) upgraded: Whole,
    /// The same of a machine with a database.
    pub(super) database: (Whole, Whole),
    /// The calls of the upgrader in a run, a resumed one, one that is resumed at boot, and on the way back.
    pub(super) calls: Vec<(Scene, Vec<Call>)>,
    /// The calls of dpkg, each time that it was run to change something.
    pub(super) dpkg: Vec<Vec<Call>>,
    /// The maintainer scripts that ran: `asterisk.postinst`.
    pub(super) scripts: Vec<String>,
}

impl Reference {
    /// Makes it, unless it is known already.
    pub(super) fn of(debian: Debian, stage: &Stage) -> Result<Self> {
        let directory = binaries::target().join("crash/references");
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let ways = Scene::ALL.map(count);
        let listing = whole::script();
        let ingredients: Vec<&str> =
            ways.iter().chain([&listing]).map(String::as_str).chain(database::INGREDIENTS).collect();
        let path = directory.join(format!("{debian}-{}.json", stage.tag(&ingredients)));
        // Others who need the same wait here.
        let lock = File::create(directory.join(format!("{debian}.lock")))?;
        lock.lock()?;
        if path.exists() {
            return serde_json::from_slice(&fs::read(&path)?).with_context(|| path.display().to_string());
        }
        let reference = Self::make(stage)?;
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(&reference)?)?;
        fs::rename(&new, &path)?;
        Ok(reference)
    }

    /// All of it at once: who makes it is waited for by everybody else.
    fn make(stage: &Stage) -> Result<Self> {
        std::thread::scope(|scope| {
            let old = scope.spawn(|| Whole::of(&stage.world(Scene::Run)?.machine));
            let database = scope.spawn(|| {
                let world = stage.world(Scene::Migration)?;
                let before = Whole::of(&world.machine)?;
                let ended = Scene::Migration.begin(&world)?;
                ensure!(ended.exit == Some(0), "{ended:?}");
                Ok((before, Whole::of(&world.machine)?))
            });
            let runs = Scene::ALL.map(|scene| scope.spawn(move || Undisturbed::of(stage, scene)));
            let mut reference = Self {
                old: result(old)?,
                upgraded: Whole::default(),
                database: result(database)?,
                calls: Vec::new(),
                dpkg: Vec::new(),
                scripts: Vec::new(),
            };
            for (scene, run) in Scene::ALL.into_iter().zip(runs) {
                let run = result(run)?;
                reference.calls.push((scene, run.calls));
                if let Some((upgraded, scripts, dpkg)) = run.upgraded {
                    (reference.upgraded, reference.scripts, reference.dpkg) = (upgraded, scripts, dpkg);
                }
            }
            ensure!(reference.old != reference.upgraded, "an upgrade changes nothing");
            Ok(reference)
        })
    }
}

/// What a thread found out.
fn result<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// A scene in which nothing happened.
struct Undisturbed {
    calls: Vec<Call>,
    /// Of a whole run: the machine, the maintainer scripts, and the calls of dpkg.
    upgraded: Option<(Whole, Vec<String>, Vec<Vec<Call>>)>,
}

impl Undisturbed {
    fn of(stage: &Stage, scene: Scene) -> Result<Self> {
        let world = stage.world(scene)?;
        world.machine.sh(&count(scene))?;
        let ended = scene.begin(&world)?;
        let expected = [Some(0), Some(0), None, Some(4)][scene as usize];
        ensure!(ended.exit == expected && ended.is_over, "{}: {ended:?}", scene.key());
        let printed = world.machine.sh(COUNTED)?;
        let mut sections = printed.split("==\n");
        let calls = call::read(sections.next().unwrap_or_default());
        ensure!(!calls.is_empty(), "nothing was seen of the upgrader: {printed}");
        if scene != Scene::Run {
            return Ok(Self { calls, upgraded: None });
        }
        let mut scripts: Vec<String> = Vec::new();
        for script in sections.next().unwrap_or_default().lines() {
            if !scripts.iter().any(|known| known == script) {
                scripts.push(script.to_owned());
            }
        }
        Ok(Self { calls, upgraded: Some((Whole::of(&world.machine)?, scripts, sections.map(call::read).collect())) })
    }
}
