use std::fs::{self, File};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::call::{self, Call};
use super::database;
use super::scene::{Scene, Stage};
use super::strike::{COUNTED, count};
use super::whole::{self, Whole};
use crate::binaries;
use crate::image::Debian;

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

    fn make(stage: &Stage) -> Result<Self> {
        let world = stage.world(Scene::Run)?;
        let old = Whole::of(&world.machine)?;
        drop(world);
        let world = stage.world(Scene::Migration)?;
        let before = Whole::of(&world.machine)?;
        let ended = Scene::Migration.begin(&world)?;
        ensure!(ended.exit == Some(0), "{ended:?}");
        let database = (before, Whole::of(&world.machine)?);
        drop(world);
        let mut reference =
            Self { upgraded: old.clone(), old, database, calls: Vec::new(), dpkg: Vec::new(), scripts: Vec::new() };
        for scene in Scene::ALL {
            let world = stage.world(scene)?;
            world.machine.sh(&count(scene))?;
            let ended = scene.begin(&world)?;
            let expected = [Some(0), Some(0), None, Some(4)][scene as usize];
            ensure!(ended.exit == expected && ended.is_over, "{}: {ended:?}", scene.key());
            let printed = world.machine.sh(COUNTED)?;
            let mut sections = printed.split("==\n");
            let calls = call::read(sections.next().unwrap_or_default());
            ensure!(!calls.is_empty(), "nothing was seen of the upgrader: {printed}");
            reference.calls.push((scene, calls));
            let scripts = sections.next().unwrap_or_default();
            if scene == Scene::Run {
                reference.upgraded = Whole::of(&world.machine)?;
                reference.dpkg = sections.map(call::read).collect();
                for script in scripts.lines() {
                    if !reference.scripts.iter().any(|known| known == script) {
                        reference.scripts.push(script.to_owned());
                    }
                }
            }
        }
        ensure!(reference.old != reference.upgraded, "an upgrade changes nothing");
        Ok(reference)
    }
}
