//! Upgrades of real machines. Each story runs on every Debian release, as one test named after both.

/// Stories of what is known after a run.
mod aftermath;
/// Stories of machines that end up upgraded, and of those whose upgrade fails in the middle.
mod changed;
/// Stories of products with a database.
mod database;
/// Stories of the harness itself: what it must be right about for the others to prove anything.
mod honest;
/// Stories of another product than XiVO.
mod other_product;
/// Stories of what the package brings beside the programs.
mod package;
/// Stories of XiVO's own hooks, on machines where services behave like the real ones.
mod provd;
/// Stories of what is restarted after an upgrade and what is not.
mod restarts;
/// The list of stories, and the snapshots that belong to them.
mod story;
/// Stories of terminals.
mod terminal;
/// Stories of machines on which nothing may change.
mod unchanged;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let stories: Vec<_> = [
        aftermath::STORIES,
        changed::STORIES,
        database::STORIES,
        honest::STORIES,
        other_product::STORIES,
        package::STORIES,
        provd::STORIES,
        restarts::STORIES,
        terminal::STORIES,
        unchanged::STORIES,
    ]
    .concat();
    let mut trials: Vec<Trial> = stories.iter().flat_map(story::trials).collect();
    trials.push(Trial::test("no_stale_snapshot", move || story::no_stale_snapshot(&stories)));
    libtest_mimic::run(&arguments, trials).exit();
}
