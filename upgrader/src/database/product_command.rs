//! A product's own migration command.

use std::io::{self, ErrorKind};

use anyhow::{Context as _, Result, anyhow};

use crate::config::product::Database;
use crate::exit::{Explain as _, Failure};
use crate::files;
use crate::paths::Paths;
use crate::system::command::{Failed, Program};
use crate::system::remove_file;

/// The pending migrations, one a line, as the product's `pending` program prints them.
///
/// Without that program, the migration command runs whenever packages have changed. It is pending if a run ended before that.
pub(super) fn pending(database: &Database, paths: &Paths, packages_change: bool) -> Result<Vec<String>> {
    let Some(words) = &database.pending else {
        let is_pending = files::exists(paths.migration_pending());
        return Ok(database.migrate.as_ref().filter(|_| is_pending).map(|words| words.join(" ")).into_iter().collect());
    };
    match Program::of_settings(words).and_then(Program::output) {
        Ok(output) => Ok(lines(&output)),
        // The new packages bring the program.
        Err(error) if packages_change && is_not_there(&error) => Ok(Vec::new()),
        Err(error) => Err(error).explain(|| {
            Failure::new("the product cannot say whether its database needs a migration")
                .remedy(format!("Run `{}` to see more; fix the error, then start again.", words.join(" ")))
        }),
    }
}

/// Runs the product's own command, as root.
///
/// # Errors
/// If it fails; the error is worded to follow "failed".
pub(super) fn run(words: &[String], line: &mut dyn FnMut(&str)) -> Result<()> {
    Program::of_settings(words).and_then(|program| program.lines(line)).map_err(|error| {
        match error.downcast::<Failed>() {
            Ok(failed) => anyhow!(failed.how),
            Err(error) => error,
        }
    })
}

/// Records that packages are about to change. A migration command without a `pending` program then runs even if this run ends before the
/// step `migrate`.
pub(crate) fn packages_will_change(database: &Database, paths: &Paths) -> Result<()> {
    if database.migrate.is_none() || database.pending.is_some() {
        return Ok(());
    }
    let file = paths.migration_pending();
    let written = files::make_own(&paths.state()).and_then(|()| files::replace(&file, 0o600, b""));
    written.with_context(|| file.display().to_string())
}

/// Removes the record of [`packages_will_change`].
pub(super) fn clear_pending(paths: &Paths) -> Result<()> {
    let file = paths.migration_pending();
    remove_file(&file).with_context(|| file.display().to_string())
}

fn lines(output: &str) -> Vec<String> {
    output.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn is_not_there(error: &anyhow::Error) -> bool {
    error.root_cause().downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(more: &str) -> Database {
        let text =
            format!("kind = \"postgresql\"\nname = \"a\"\nowner = \"b\"\nmigrate = [\"migrate\", \"up\"]\n{more}");
        toml::from_str(&text).expect("it is good")
    }

    #[test]
    fn what_is_pending_is_what_the_program_prints() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        let asked = database("pending = [\"printf\", \"add calls\\n\\n  add agents\\n\"]");
        assert_eq!(pending(&asked, &paths, false).expect("it runs"), ["add calls", "add agents"]);
    }

    #[test]
    fn a_program_that_the_upgrade_brings_has_nothing_to_say_before_it() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        let asked = database("pending = [\"/nowhere/pending\"]");
        assert_eq!(pending(&asked, &paths, true).expect("it is to come"), Vec::<String>::new());
        assert!(pending(&asked, &paths, false).is_err());
        assert!(pending(&database("pending = [\"false\"]"), &paths, true).is_err());
    }

    #[test]
    fn a_command_without_a_pending_program_is_pending_from_the_packages_until_it_ran() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        let database = database("");
        assert_eq!(pending(&database, &paths, false).expect("nothing pending"), Vec::<String>::new());
        packages_will_change(&database, &paths).expect("written");
        assert_eq!(pending(&database, &paths, false).expect("pending"), ["migrate up"]);
        clear_pending(&paths).expect("removed");
        clear_pending(&paths).expect("it is not there");
        assert_eq!(pending(&database, &paths, false).expect("nothing pending"), Vec::<String>::new());
    }
}
