//! Runs the programs of PostgreSQL; no other file does.

use std::fs::File;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::migrations::{Applied, Migration, parse_applied};
use crate::config::product::Database;
use crate::exit::{Explain as _, Failure};
use crate::system::command::Program;

/// How long a migration waits for a lock of another session, in seconds. All later sessions that use the table wait, too.
const LOCK_TIMEOUT: u32 = 20;

/// How often the server is asked whether it answers.
const INTERVAL: Duration = Duration::from_millis(200);

/// The settings of each session, over those of the machine, the database and the role. What is not in the transaction of a
/// migration can write nothing, so that none can do half of its work outside of it.
const SETTINGS: [&str; 6] = [
    "default_transaction_read_only=on",
    "standard_conforming_strings=on",
    "statement_timeout=0",
    "idle_in_transaction_session_timeout=0",
    "client_min_messages=warning",
    // Messages are read below.
    "lc_messages=C",
];

/// The state of a database on the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Its size in bytes, indices included.
    pub(super) size: u64,
    /// True if the server is a standby.
    pub(super) standby: bool,
}

/// Waits until the server answers, and asks it for the state of a database.
///
/// # Errors
/// If it does not answer before the timeout, there is no such database, or its owner is no role of the server.
pub(super) fn state(database: &Database, timeout: Duration) -> Result<State> {
    let deadline = Instant::now() + timeout;
    let mut once_more = true;
    loop {
        match is_ready().and_then(|()| ask_state(database)) {
            // It may go down, or come up, between two questions: an error of a server that is up is one when it is repeated.
            Err(_) if Instant::now() < deadline && (is_ready().is_err() || std::mem::take(&mut once_more)) => {
                sleep(INTERVAL);
            }
            result => return result,
        }
    }
}

/// Fails unless the server takes connections.
fn is_ready() -> Result<()> {
    let mut said = String::new();
    as_postgres("pg_isready").lines(&mut |line| line.clone_into(&mut said)).map_err(|error| {
        let how = if said.is_empty() { error } else { anyhow!(said) };
        how.context(
            Failure::new("the database server does not answer").remedy(
                "`systemctl status 'postgresql*'` and `pg_lsclusters` show why; get it running, then start again.",
            ),
        )
    })
}

fn ask_state(database: &Database) -> Result<State> {
    let (name, owner) = (&database.name, &database.owner);
    // The names are those of `product::database_name`: they need no quoting in a literal.
    let answer = query(
        "postgres",
        &format!(
            "SELECT (SELECT pg_database_size(oid) FROM pg_database WHERE datname = '{name}'), \
             EXISTS (SELECT FROM pg_roles WHERE rolname = '{owner}'), pg_is_in_recovery()"
        ),
    )?;
    let (size, owner_exists, standby) = parse_state(&answer).with_context(|| format!("psql printed {answer:?}"))?;
    let missing = |what: String| {
        Failure::new(what).remedy(
            "The product's packages make both when they are installed: see whether the right server is running \
             (`pg_lsclusters`).",
        )
    };
    let size = size.ok_or_else(|| missing(format!("the database server has no database {name}")))?;
    if !owner_exists {
        return Err(missing(format!("the database server has no role {owner}, which owns the database {name}")).into());
    }
    Ok(State { size, standby })
}

/// The migrations that were applied to a database.
pub(super) fn applied(database: &Database, schema: &str) -> Result<Vec<Applied>> {
    let table = format!("\"{schema}\".migrations");
    let there = query(&database.name, &format!("SELECT to_regclass('{table}') IS NOT NULL"))?;
    if there.trim() != "t" {
        return Ok(Vec::new());
    }
    let rows = query(&database.name, &format!("SELECT name, coalesce(checksum, '') FROM {table} ORDER BY name"))?;
    Ok(parse_applied(&rows))
}

/// Applies a migration as the owner of the database, and records it, both in one transaction.
///
/// # Errors
/// With PostgreSQL's words, which name file and line.
pub(super) fn apply(
    database: &Database,
    schema: &str,
    migration: &Migration,
    line: &mut dyn FnMut(&str),
) -> Result<()> {
    let (owner, records) = (&database.owner, format!("\"{schema}\".migrations"));
    // Both are the owner's: a product's own tools may read and dump them. The lock keeps out what a killed run has left: its
    // psql goes on to the end of its migration.
    let before = format!(
        "SET TRANSACTION READ WRITE; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'; \
         CREATE SCHEMA IF NOT EXISTS \"{schema}\" AUTHORIZATION \"{owner}\"; SET ROLE \"{owner}\"; \
         CREATE TABLE IF NOT EXISTS {records} (name text PRIMARY KEY, checksum text, applied timestamptz NOT NULL DEFAULT now()); \
         LOCK TABLE {records} IN SHARE ROW EXCLUSIVE MODE"
    );
    let after = format!(
        "SET ROLE \"{owner}\"; INSERT INTO {records} (name, checksum) VALUES ('{}', '{}')",
        migration.name, migration.checksum
    );
    let mut said = Vec::new();
    let result = psql(&database.name)
        .setting("--single-transaction")
        .setting(format!("--command={before}"))
        .arg("--file")
        .arg(&migration.path)
        .setting(format!("--command={after}"))
        .lines(&mut |text| {
            said.push(text.to_owned());
            line(text);
        });
    let result = result.map_err(|error| complaint(&said).map_or(error, |complaint| anyhow!(complaint)));
    if said.iter().any(|line| line.contains("canceling statement due to lock timeout")) {
        return result.with_context(|| waited(database));
    }
    result
}

/// Says that another session holds a table, and how to find that session.
fn waited(database: &Database) -> String {
    format!(
        "it waited {LOCK_TIMEOUT} s for another session that uses the same table (`runuser -u postgres -- psql --dbname={} \
         --command='SELECT pid, usename, state, query FROM pg_stat_activity'` shows who)",
        database.name
    )
}

/// Writes a dump of a database, in `pg_dump`'s compressed format, into a file.
pub(super) fn dump(database: &Database, file: File) -> Result<()> {
    as_postgres("pg_dump")
        .settings(["--no-password", "--format=custom"])
        .arg(format!("--lock-wait-timeout={LOCK_TIMEOUT}s"))
        .arg(format!("--dbname={}", database.name))
        .into_file(file)
        .map_err(|error| {
            // pg_dump waits for locks by way of this timeout.
            let has_waited = format!("{error:#}").contains("canceling statement due to statement timeout");
            if has_waited { error.context(waited(database)) } else { error }
        })
}

/// Waits until the server answers.
pub(super) fn wait(timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while let Err(error) = is_ready() {
        if Instant::now() > deadline {
            return Err(error);
        }
        sleep(INTERVAL);
    }
    Ok(())
}

/// Renames a database and restores it from a dump, with its owner, privileges and settings. If it has the other name
/// already, what there is under its own is the beginning of that, and begins again.
pub(super) fn restore(database: &Database, kept_as: &str, dump: &Path, line: &mut dyn FnMut(&str)) -> Result<()> {
    let name = &database.name;
    let file = || File::open(dump).with_context(|| dump.display().to_string());
    file()?;
    let is_kept = query("postgres", &format!("SELECT EXISTS (SELECT FROM pg_database WHERE datname = '{kept_as}')"))?;
    let end_sessions = |name: &str| {
        format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        )
    };
    // Programs reconnect at once; they must not until the restore is done.
    let allow = |name: &str, whether: bool| format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS {whether}");
    let _ = write("postgres", &[allow(name, false)], &mut *line);
    let away = if is_kept.trim() == "t" {
        format!("DROP DATABASE IF EXISTS \"{name}\"")
    } else {
        format!("ALTER DATABASE \"{name}\" RENAME TO \"{kept_as}\"")
    };
    if let Err(error) = write("postgres", &[end_sessions(name), away], &mut *line) {
        let _ = write("postgres", &[allow(name, true)], &mut *line);
        return Err(error);
    }
    write("postgres", &[allow(kept_as, true)], &mut *line)?;
    as_postgres("pg_restore")
        .env("PGOPTIONS", WRITING)
        .settings(["--no-password", "--create", "--exit-on-error", "--dbname=postgres"])
        .stdin(file()?)
        .lines(line)
}

/// The settings of a session that writes.
const WRITING: &str = "-c statement_timeout=0 -c client_min_messages=warning -c lc_messages=C";

/// Has a database do something, each statement for itself.
fn write(database: &str, statements: &[String], line: &mut dyn FnMut(&str)) -> Result<()> {
    let commands = statements.iter().map(|statement| format!("--command={statement}"));
    psql(database).env("PGOPTIONS", WRITING).settings(commands).lines(line)
}

/// Asks a database; fields of the answer are separated by tabs.
fn query(database: &str, sql: &str) -> Result<String> {
    psql(database).setting(format!("--command={sql}")).output().explain(|| {
        Failure::new(format!("the database {database} cannot be asked"))
            .remedy("`runuser -u postgres -- psql` shows the same; fix the error, then start again.")
    })
}

/// psql, without settings of users, prompts, pager and decoration.
fn psql(database: &str) -> Program {
    as_postgres("psql")
        .settings(["--no-psqlrc", "--no-password", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"])
        .setting("--field-separator=\t")
        .arg(format!("--dbname={database}"))
}

/// A program of PostgreSQL's as its superuser, who needs no password on the machine itself.
fn as_postgres(program: &str) -> Program {
    let settings: Vec<String> = SETTINGS.iter().map(|setting| format!("-c {setting}")).collect();
    Program::new("runuser")
        .settings(["-u", "postgres", "--"])
        .arg(program)
        .env("PGOPTIONS", settings.join(" "))
        .env("PGCLIENTENCODING", "UTF8")
        // Where no settings are.
        .env("HOME", "/nonexistent")
}

/// Reads the answer of [`state`]: the size, if there is such a database, whether there is such a role, whether it is a standby.
fn parse_state(answer: &str) -> Option<(Option<u64>, bool, bool)> {
    let mut fields = answer.trim_end_matches('\n').split('\t');
    let size = match fields.next()? {
        "" => None,
        size => Some(size.parse().ok()?),
    };
    let mut truth = || match fields.next()? {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    };
    Some((size, truth()?, truth()?))
}

/// The first error in what psql said, with what PostgreSQL adds to it:
/// `psql:/path/003-a.sql:2: ERROR:  duplicate key …`, `DETAIL:  Key (x)=(1) …`.
fn complaint(said: &[String]) -> Option<String> {
    let mut lines = said.iter().skip_while(|line| {
        let message = match line.split_once(' ') {
            Some((place, message)) if place.starts_with("psql:") && place.ends_with(':') => message,
            _ => line.as_str(),
        };
        !["ERROR: ", "FATAL: ", "PANIC: "].iter().any(|severity| message.starts_with(severity))
    });
    let first = lines.next()?;
    let mut complaint = first.strip_prefix("psql:").unwrap_or(first).replacen(":  ", ": ", 1);
    for more in lines.filter(|line| line.starts_with("DETAIL: ") || line.starts_with("HINT: ")) {
        complaint.push_str(" / ");
        complaint.push_str(&more.replacen(":  ", ": ", 1));
    }
    Some(complaint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn complaint_of(said: &str) -> Option<String> {
        complaint(&said.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn an_error_in_a_file_is_told_with_its_place_and_its_detail() {
        let said = "psql:/m/002-b.sql:1: WARNING:  this is not an ERROR:  at all\n\
                    psql:/m/002-b.sql:7: ERROR:  duplicate key value violates unique constraint \"a_pkey\"\n\
                    DETAIL:  Key (x)=(1) already exists.\nLINE 1: SELECT\n        ^\n";
        assert_eq!(
            complaint_of(said).as_deref(),
            Some(
                "/m/002-b.sql:7: ERROR: duplicate key value violates unique constraint \"a_pkey\" / \
                 DETAIL: Key (x)=(1) already exists."
            )
        );
        assert_eq!(complaint_of("ERROR:  permission denied").as_deref(), Some("ERROR: permission denied"));
        assert_eq!(complaint_of("/m/9.sql: No such file or directory\n"), None);
    }

    #[test]
    fn the_state_of_a_database_is_read_as_psql_prints_it() {
        assert_eq!(parse_state("7500000\tt\tf\n"), Some((Some(7_500_000), true, false)));
        assert_eq!(parse_state("\tf\tt\n"), Some((None, false, true)));
        for unknown in ["", "x\tt\tt", "1\tt", "1\tyes\tt", "-1\tt\tt"] {
            assert_eq!(parse_state(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn the_documented_time_limit_is_the_one_that_is_set() {
        let page = documented::text("docs/reference/migrations.md");
        assert!(page.contains(&format!("waits at most {LOCK_TIMEOUT} s for a lock")));
    }

    proptest! {
        #[test]
        fn nothing_that_psql_prints_makes_it_panic(answer in "(?s).*", said in proptest::collection::vec("(psql:)?.{0,20}(: )?(ERROR: )?.*", 0..6)) {
            let _ = parse_state(&answer);
            let _ = complaint(&said);
        }
    }
}
