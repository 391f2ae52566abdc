//! Upgrades of real machines. Each story runs on every Debian release, as one test named after both.

mod aftermath;
mod attended;
mod changed;
mod conffiles;
mod cut_short;
mod database;
mod disks;
mod field_notes;
mod honest;
mod hooks;
mod other_product;
mod package;
mod pair;
mod preflight;
mod provd;
mod releases;
mod repository;
mod restarts;
mod screens;
mod story;
mod terminal;
mod unchanged;
mod validated;
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
        disks::STORIES,
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
