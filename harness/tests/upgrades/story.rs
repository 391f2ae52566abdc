//! The list of stories, and the snapshots that belong to them.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use harness::machines::image::Debian;
use harness::machines::transcript::without_times;
use libtest_mimic::{Failed, Trial};

/// A story of one upgrade.
#[derive(Clone, Copy)]
pub(crate) struct Story {
    /// Its name, and that of its snapshot.
    pub(crate) name: &'static str,
    /// What a user would lose if it did not hold.
    pub(crate) promise: &'static str,
    /// Tells it on a Debian release. What it returns is compared with the snapshot: the same on every release.
    pub(crate) tell: fn(Debian) -> Result<Option<String>>,
    /// Whether it returns something.
    pub(crate) has_snapshot: bool,
}

/// Where the snapshots are.
const SNAPSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots");

/// Stories of what differs between releases of Debian: systemd and its helpers, PostgreSQL, the libraries that everything maps. What apt
/// checks signatures with differs as well: those are cells of the matrix.
pub(crate) const ON_ALL: [&str; 4] = ["the_machine_is_real", "upgrade", "replaced_library", "database"];

/// A story as tests, one for each Debian release. Every run has a look at each story: on all releases at those of what differs
/// between them, on one of them at the others, some here and some there. The rest counts as ignored; `make all-debians` runs all.
pub(crate) fn trials(story: &Story) -> Vec<Trial> {
    let story = *story;
    let turn = story.name.bytes().map(usize::from).sum::<usize>() % Debian::ALL.len();
    let trial = |(index, debian)| {
        let chosen = index == turn || ON_ALL.contains(&story.name);
        let trial = Trial::test(format!("{}::{debian}", story.name), move || test(story, debian));
        trial.with_ignored_flag(!chosen)
    };
    Debian::ALL.into_iter().enumerate().map(trial).collect()
}

fn test(story: Story, debian: Debian) -> Result<(), Failed> {
    let document = (story.tell)(debian).map_err(|error| format!("{}\n{error:?}", story.promise))?;
    if document.is_some() != story.has_snapshot {
        return Err("has_snapshot does not say what the story does".into());
    }
    let Some(document) = document.map(|document| without_times(&document)) else { return Ok(()) };
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(SNAPSHOTS);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(story.promise);
    settings.bind(|| insta::assert_snapshot!(story.name, document));
    Ok(())
}

/// A snapshot that no story compares itself with is out of date and misleads its readers.
pub(crate) fn no_stale_snapshot(stories: &[Story]) -> Result<(), Failed> {
    let known: BTreeSet<String> =
        stories.iter().filter(|story| story.has_snapshot).map(|story| format!("{}.snap", story.name)).collect();
    let mut found = BTreeSet::new();
    for entry in Path::new(SNAPSHOTS).read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "snap")
            && let Some(name) = path.file_name()
        {
            found.insert(name.to_string_lossy().into_owned());
        }
    }
    let stale: Vec<_> = found.difference(&known).collect();
    let missing: Vec<_> = known.difference(&found).collect();
    if stale.is_empty() && missing.is_empty() {
        return Ok(());
    }
    Err(format!("snapshots/ has files that no story uses: {stale:?}, and lacks: {missing:?}").into())
}
