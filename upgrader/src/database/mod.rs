//! The product's database: surveys, dumps, migrates and restores it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::config::product::Database;
use crate::exit::{Explain as _, Failure};
use crate::model::event::Event;
use crate::model::events::Events;
use crate::paths::Paths;

mod dump;
mod migrations;
mod owner;
mod product_command;
mod psql;
mod restore;
mod scram;
mod sql;

use self::owner::OwnerRole;
pub(crate) use self::product_command::packages_will_change;

/// The timeout of the server before its packages are upgraded.
const ANSWERS: Duration = Duration::from_secs(2);

/// The timeout of the server after its packages were upgraded: it may have to recover first.
const COMES_UP: Duration = Duration::from_secs(60);

/// The state of a database and its pending migrations, collected without changing anything.
#[derive(Debug)]
pub(crate) struct Survey {
    /// The pending migrations, in order. A standby has none: it gets those of its primary.
    pub(crate) pending: Vec<String>,
    /// The files in the directory of migrations that are skipped, each with the reason.
    pub(crate) skipped: Vec<(String, String)>,
    work: Vec<Work>,
    /// True if the server is a standby.
    standby: bool,
    /// The size of the database in bytes.
    size: u64,
}

/// True if this is the name of a migration file: `003-call-log.sql`.
pub fn is_migration(file: &str) -> bool {
    migrations::parse_name(file).is_some()
}

/// Surveys the database. `packages_change` is true if packages will change: they may contain migrations that the product's own command
/// does not know yet.
///
/// # Errors
/// If the server does not answer, the database or its owner does not exist, a migration file is invalid or was changed since it was
/// applied, the database is newer than the files, or there is no space for the dump.
pub(crate) fn survey(database: &Database, paths: &Paths, packages_change: bool) -> Result<Survey> {
    inspect(database, paths, packages_change, ANSWERS)
}

/// Migrates the database to the schema of the installed release: waits for the server, dumps the database, applies the pending
/// migrations. Does nothing if none is pending. `saved` gets the path of the dump before anything is changed. Dumps older than `keep_days` days are removed.
///
/// # Errors
/// The migrations before the failed one stay applied, and the next run continues with the failed one. The failure says so, and names the
/// dump.
pub(crate) fn migrate(
    database: &Database,
    paths: &Paths,
    keep_days: u32,
    saved: &mut dyn FnMut(&Path) -> Result<()>,
    events: &mut Events<'_>,
) -> Result<()> {
    let unchanged = || Failure::new("the database was not migrated").remedy(how_to_resume(paths));
    let Survey { skipped, work, standby, size, .. } = inspect(database, paths, true, COMES_UP).explain(unchanged)?;
    let name = database.name.clone();
    if standby && !work.is_empty() {
        events.emit(Event::Migrating(name));
        // A standby is read-only, and replays the migrations of its primary.
        events.emit(Event::MigrationSkipped("migrations".to_owned(), "this server is a standby".to_owned()));
        return product_command::clear_pending(paths);
    }
    if work.is_empty() {
        return Ok(());
    }
    let directory = paths.dumps().display().to_string();
    events.emit(Event::DatabaseSaving { database: name.clone(), directory });
    let (dump, bytes) = dump::write(paths, database, &role(paths), size, keep_days).explain(unchanged)?;
    saved(&dump)?;
    events.emit(Event::DatabaseSaved { file: dump.display().to_string(), bytes });
    events.emit(Event::Migrating(name));
    for (what, reason) in skipped {
        events.emit(Event::MigrationSkipped(what, reason));
    }
    for migration in &work {
        let result = migration.apply(database, paths, events);
        let applied = result.as_ref().map_err(|error| format!("{error:#}")).copied();
        events.emit(Event::Migrated(migration.name(), applied));
        result.explain(|| {
            Failure::new(format!("the database migration is not complete: {} failed", migration.name())).remedy(
                format!(
                    "{} {} The dump of the database before the migration is {} (for pg_restore).",
                    migration.what_stays(),
                    how_to_resume(paths),
                    dump.display()
                ),
            )
        })?;
    }
    product_command::clear_pending(paths)
}

/// Restores the database from a dump, and keeps the current one under another name. Can be repeated if it was interrupted.
///
/// # Errors
/// If the server does not answer, or the restore fails. The failure names the dump and the current database.
pub(crate) fn restore(database: &Database, paths: &Paths, dump: &Path, events: &mut Events<'_>) -> Result<()> {
    let name = &database.name;
    // Named after the dump, so that a repeated restore finds the database that was kept.
    let kept_as = kept_as(name, dump);
    let failure = || {
        Failure::new(format!("the database {name} was not restored")).remedy(format!(
            "Its state before the upgrade is in {} (for `pg_restore` as {}, never as postgres), its latest state in the database {kept_as} or still in {name}. \
             Fix the error, then start `{} rollback` again.",
            dump.display(),
            database.owner,
            paths.package()
        ))
    };
    psql::wait(COMES_UP, || Ok(())).explain(failure)?;
    let mut line = events.output_of("psql");
    let is_kept = restore::replace(database, &role(paths), &kept_as, dump, &mut line).explain(failure)?;
    drop(line);
    product_command::clear_pending(paths)?;
    events.emit(Event::DatabaseRestored { database: name.to_owned(), kept_as: is_kept.then_some(kept_as) });
    Ok(())
}

/// The name of the database that a dump replaces: `asterisk_20261122T154853Z`.
fn kept_as(database: &str, dump: &Path) -> String {
    let stem = dump.file_stem().unwrap_or_default().to_string_lossy();
    let time = stem.rsplit('-').next().unwrap_or_default();
    format!("{}_{time}", database.chars().take(40).collect::<String>())
}

/// How the admin resumes a run that stopped here.
fn how_to_resume(paths: &Paths) -> String {
    format!(
        "See {}, fix what it names, then start {} again: it continues with the migrations, runs the post-upgrade hooks and \
         restarts the services.",
        paths.log().display(),
        paths.package()
    )
}

/// One thing that is done to migrate a database.
#[derive(Debug)]
enum Work {
    File(migrations::Migration),
    OwnCommand(Vec<String>),
}

impl Work {
    fn name(&self) -> String {
        match self {
            Self::File(migration) => migration.name.clone(),
            Self::OwnCommand(words) => words.join(" "),
        }
    }

    fn apply(&self, database: &Database, paths: &Paths, events: &mut Events<'_>) -> Result<()> {
        match self {
            Self::File(migration) => {
                let (role, line) = (role(paths), &mut events.output_of("psql"));
                OwnerRole::create(database, &role)?.apply(&schema(paths), migration, line)
            }
            Self::OwnCommand(words) => product_command::run(words, &mut events.output_of("migrate")),
        }
    }

    /// What is left in the database when this failed.
    fn what_stays(&self) -> &'static str {
        match self {
            Self::File(_) => "The failed migration is rolled back; those before it stay applied.",
            Self::OwnCommand(_) => "What the failed command changed may stay in the database.",
        }
    }
}

fn inspect(database: &Database, paths: &Paths, packages_change: bool, timeout: Duration) -> Result<Survey> {
    let psql::State { size, standby } = psql::wait(timeout, || psql::state(database))?;
    let role = role(paths);
    // A standby is read-only: it gets no role, and the records of its primary are not read.
    let session = if standby { None } else { Some(OwnerRole::create(database, &role)?) };
    let (mut pending, mut work, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    // Whether new packages may bring migrations that are not known yet.
    let mut more_may_come = false;
    if let Some(command) = &database.migrate {
        migrations::none_beside(&paths.migrations(), command)?;
        pending = product_command::pending(database, paths, packages_change)?;
        more_may_come = packages_change;
        if !pending.is_empty() || (packages_change && database.pending.is_none()) {
            work.push(Work::OwnCommand(command.clone()));
        }
    } else {
        let found = migrations::find(&paths.migrations())?;
        skipped.extend(found.skipped.into_iter().map(|name| (name, "not a migration".to_owned())));
        let applied = session.as_ref().map_or(Ok(Vec::new()), |session| session.applied(&schema(paths)))?;
        for migration in migrations::pending(found.migrations, &applied)? {
            migration.check()?;
            pending.push(migration.name.clone());
            work.push(Work::File(migration));
        }
    }
    if standby {
        pending.clear();
    } else if !work.is_empty() || more_may_come {
        dump::check_space(paths, size)?;
    }
    if let (Some(session), false) = (&session, work.is_empty() && !more_may_come) {
        session.check_contents()?;
    }
    Ok(Survey { pending, skipped, work, standby, size })
}

/// The schema of the table `migrations`, in which applied migrations are recorded. The table has a schema of its own: the product's
/// tools that compare or list schemas do not stumble over it, and it does not matter who may create tables in `public`.
fn schema(paths: &Paths) -> String {
    let allowed =
        |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '_' };
    // PostgreSQL would truncate a longer name (NAMEDATALEN).
    paths.package().chars().map(allowed).take(63).collect()
}

/// The name of the role that opens sessions as the owner: `xivo_upgrade_session`.
fn role(paths: &Paths) -> String {
    format!("{:.55}_session", schema(paths))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_schema_is_named_after_the_product_whatever_characters_its_name_has() {
        let schema = |program: &str| schema(&Paths::of_program(Path::new(program)).expect("a good name"));
        assert_eq!(schema("xivo-upgrade"), "xivo_upgrade");
        assert_eq!(schema("Acme \"2\"é-upgrade"), "acme__2___upgrade");
        assert_eq!(schema(&format!("{}-upgrade", "a".repeat(80))), "a".repeat(63));
    }
}
