//! Upgrades of real machines. Each story runs on every Debian release, as one test named after both.

/// Stories of what is known after a run.
mod aftermath;
/// Stories of who looks on while an upgrade goes on, and of terminals that are lost.
mod attended;
/// Stories of machines that end up upgraded, and of those whose upgrade fails in the middle.
mod changed;
/// Stories of conffiles, and of packages that would like to ask.
mod conffiles;
/// Stories of upgrades whose process is killed.
mod cut_short;
/// Stories of products with a database.
mod database;
/// What goes wrong with upgraders in the field, and which stories show that it does not here.
mod field_notes;
/// Stories of the harness itself: what it must be right about for the others to prove anything.
mod honest;
/// Stories of hooks: in order, in their own world, and up to no good.
mod hooks;
/// Stories of another product than XiVO.
mod other_product;
/// Stories of what the package brings beside the programs.
mod package;
/// Stories of two machines, one of which takes over when the other fails.
mod pair;
/// Stories of what can be known to go wrong before anything is touched.
mod preflight;
/// Stories of XiVO's own hooks, on machines where services behave like the real ones.
mod provd;
/// Stories of machines that go through many releases.
mod releases;
/// Stories of repositories that misbehave.
mod repository;
/// Stories of what is restarted after an upgrade and what is not.
mod restarts;
/// Stories of what is shown where.
mod screens;
/// The list of stories, and the snapshots that belong to them.
mod story;
/// Stories of terminals.
mod terminal;
/// Stories of machines on which nothing may change.
mod unchanged;
/// Stories of what the vendor has validated.
mod validated;
/// Stories of upgrades that were cut short or failed, and of what comes after: completing them, or going back.
mod way_back;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let stories: Vec<_> = [
        aftermath::STORIES,
        attended::STORIES,
        changed::STORIES,
        cut_short::STORIES,
        conffiles::STORIES,
        database::STORIES,
        field_notes::STORIES,
        honest::STORIES,
        hooks::STORIES,
        other_product::STORIES,
        package::STORIES,
        pair::STORIES,
        preflight::STORIES,
        provd::STORIES,
        releases::STORIES,
        repository::STORIES,
        restarts::STORIES,
        screens::STORIES,
        terminal::STORIES,
        unchanged::STORIES,
        validated::STORIES,
        way_back::STORIES,
    ]
    .concat();
    let mut trials: Vec<Trial> = stories.iter().flat_map(story::trials).collect();
    let unknown = story::ON_ALL.iter().find(|name| !stories.iter().any(|story| story.name == **name));
    assert!(unknown.is_none(), "there is no story {unknown:?}");
    let known = stories.clone();
    trials.push(Trial::test("field_notes_are_answered", move || field_notes::field_notes_are_answered(&known)));
    trials.push(Trial::test("no_stale_snapshot", move || story::no_stale_snapshot(&stories)));
    libtest_mimic::run(&arguments, trials).exit();
}
