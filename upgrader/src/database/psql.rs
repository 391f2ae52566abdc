//! Runs the programs of PostgreSQL; no other file does. Sessions of the superuser are in the database `postgres` only: what a role made in
//! a database of its own would run with the superuser's rights. For that database there is `owner.rs`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::config::product::Database;
use crate::exit::{Explain as _, Failure};
use crate::system::command::{Failed, PATH, Program};

/// How often the server is asked whether it answers.
const INTERVAL: Duration = Duration::from_millis(200);

/// The time limit of a query; the server's own is half of it.
pub(super) const QUERY_LIMIT: Duration = Duration::from_secs(60);

/// The time limit of a migration, of a dump, and of a restore.
pub(super) const LONG_LIMIT: Duration = Duration::from_secs(6 * 60 * 60);

/// The settings of each session, over those of the machine, the database and the role. When the client is killed, the server ends its
/// statement within `client_connection_check_interval`.
const SETTINGS: &str = "-c standard_conforming_strings=on -c idle_in_transaction_session_timeout=0 \
                        -c client_connection_check_interval=5s -c client_min_messages=warning \
                        -c local_preload_libraries= -c idle_session_timeout=0";

/// The settings of a session that reads, of the superuser or not.
pub(super) const READING: &str =
    "-c default_transaction_read_only=on -c search_path=pg_catalog -c statement_timeout=30s -c lock_timeout=20s";

/// The settings of a session of the superuser that writes.
const WRITING: &str =
    "-c default_transaction_read_only=off -c search_path=pg_catalog -c statement_timeout=25min -c lock_timeout=20s";

/// The state of a database on the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Its size in bytes, indices included.
    pub(super) size: u64,
    /// True if the server is a standby.
    pub(super) standby: bool,
}

/// Waits until the server answers a question.
///
/// # Errors
/// If it does not before the timeout, or the answer is an error twice.
pub(super) fn wait<T>(timeout: Duration, ask: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    let mut once_more = true;
    loop {
        match is_ready().and_then(|()| ask()) {
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
    as_postgres("pg_isready", QUERY_LIMIT, READING).lines(&mut |line| line.clone_into(&mut said)).map_err(|error| {
        let how = if said.is_empty() { error } else { anyhow!(said) };
        how.context(
            Failure::new("the database server does not answer").remedy(
                "`systemctl status 'postgresql*'` and `pg_lsclusters` show why; get it running, then start again.",
            ),
        )
    })
}

/// Asks the server for the state of a database.
///
/// # Errors
/// If there is no such database or role, or the role does not own the database.
pub(super) fn state(database: &Database) -> Result<State> {
    let Database { name, owner, .. } = database;
    // The names are those of `product::database_name`: they need no quoting in a literal.
    let answer = query(&format!(
        "SELECT (SELECT pg_database_size(oid) FROM pg_database WHERE datname = '{name}'), \
         (SELECT EXISTS (SELECT FROM pg_database WHERE datname = '{name}' AND datdba = r.oid) FROM pg_roles r WHERE rolname = '{owner}'), \
         pg_is_in_recovery()"
    ))?;
    let (size, owns, standby) = parse_state(&answer).with_context(|| format!("psql printed {answer:?}"))?;
    let missing = |what: String| {
        Failure::new(what).remedy(
            "The product's packages make both when they are installed: see whether the right server is running \
             (`pg_lsclusters`).",
        )
    };
    let size = size.ok_or_else(|| missing(format!("the database server has no database {name}")))?;
    match owns {
        Some(true) => Ok(State { size, standby }),
        Some(false) => Err(Failure::new(format!("the role {owner} does not own the database {name}"))
            .remedy(format!(
                "`runuser -u postgres -- psql --command='ALTER DATABASE \"{name}\" OWNER TO \"{owner}\"'`, then start again."
            ))
            .into()),
        None => Err(missing(format!("the database server has no role {owner}, which owns the database {name}")).into()),
    }
}

/// Asks the server as its superuser; fields of the answer are separated by tabs.
pub(super) fn query(sql: &str) -> Result<String> {
    output(superuser(READING, "postgres").setting(format!("--command={sql}"))).explain(|| {
        Failure::new("the database server cannot be asked")
            .remedy("`runuser -u postgres -- psql` shows the same; fix the error, then start again.")
    })
}

/// Has the superuser do something in a database that nobody else has been in, or in `postgres`. The statements of one text are one
/// transaction, unless one of them cannot be in one.
pub(super) fn write(database: &str, statements: &[&str], line: &mut dyn FnMut(&str)) -> Result<()> {
    let psql = superuser(WRITING, database);
    statements.iter().fold(psql, |psql, sql| psql.setting(format!("--command={sql}"))).lines(line)
}

/// Feeds psql with statements of the superuser that no list of processes may show. Returns the last line that it printed.
pub(super) fn feed(script: &str) -> Result<String> {
    let mut last = String::new();
    superuser(WRITING, "postgres").setting("--file=-").feed(script, &mut |line| line.clone_into(&mut last))?;
    Ok(last)
}

/// The same with statements that may fail, each for itself. What fails is printed.
pub(super) fn attempt(script: &str, line: &mut dyn FnMut(&str)) -> Result<()> {
    superuser(WRITING, "postgres").setting("--file=-").feed(&format!("\\set ON_ERROR_STOP off\n{script}"), line)
}

fn superuser(options: &str, database: &str) -> Program {
    // The longest that is done is a checkpoint, for a database that is created or dropped.
    plain(as_postgres("psql", 30 * QUERY_LIMIT, options), database)
}

const PLAIN: &[&str] = &[
    "--no-psqlrc",
    "--no-password",
    "--quiet",
    "--no-align",
    "--tuples-only",
    "--set=ON_ERROR_STOP=1",
    "--field-separator=\t",
];

/// psql, without settings of users, prompts, pager and decoration.
pub(super) fn plain(psql: Program, database: &str) -> Program {
    psql.settings(PLAIN).arg(format!("--dbname={database}"))
}

/// Runs a query and returns its answer.
pub(super) fn output(program: Program) -> Result<String> {
    program.output().map_err(|error| match error.downcast_ref::<Failed>() {
        // That of timeout(1).
        Some(Failed { code: Some(124), .. }) => error.context("the server did not answer in time"),
        _ => error,
    })
}

/// A program of PostgreSQL's as its superuser, who needs no password on the machine itself.
fn as_postgres(program: &str, limit: Duration, options: &str) -> Program {
    let account = &["--reuid=postgres", "--regid=postgres", "--init-groups"];
    limited(account, program, limit).env("PGOPTIONS", format!("{SETTINGS} -c lc_messages=C {options}"))
}

/// A program of PostgreSQL's as an account that has no name, no files and no other processes (Debian's policy reserves its number).
/// It reads what the owner of a database has made, and can be led astray by it.
pub(super) fn as_nobody(program: &str, limit: Duration, options: &str) -> Program {
    let account = &["--reuid=65533", "--regid=65533", "--clear-groups", "--no-new-privs"];
    limited(account, program, limit).env("PGOPTIONS", format!("{SETTINGS} {options}"))
}

/// A program that ends at its time limit, and when this process ends.
fn limited(account: &[&str], program: &str, limit: Duration) -> Program {
    Program::new("setpriv")
        .settings(&["--pdeathsig=TERM", "timeout", "--kill-after=5"][..])
        .setting(limit.as_secs().to_string())
        .settings(&["setpriv", "--pdeathsig=KILL"][..])
        .settings(account)
        .arg(program)
        .env("PGCLIENTENCODING", "UTF8")
        .env("PATH", PATH)
        // Where no settings are.
        .env("HOME", "/nonexistent")
}

/// Reads the answer of [`state`]: the size, if there is such a database; whether the role owns it, if there is such a role; whether
/// the server is a standby.
fn parse_state(answer: &str) -> Option<(Option<u64>, Option<bool>, bool)> {
    let mut fields = answer.trim_end_matches('\n').split('\t');
    let size = match fields.next()? {
        "" => None,
        size => Some(size.parse().ok()?),
    };
    let mut truth = || match fields.next()? {
        "t" => Some(Some(true)),
        "f" => Some(Some(false)),
        "" => Some(None),
        _ => None,
    };
    Some((size, truth()?, truth()??))
}

/// The first error in what psql said, with what PostgreSQL adds to it:
/// `psql:/path/003-a.sql:2: ERROR:  duplicate key …`, `DETAIL:  Key (x)=(1) …`.
pub(super) fn complaint(said: &[String]) -> Option<String> {
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
        assert_eq!(parse_state("7500000\tt\tf\n"), Some((Some(7_500_000), Some(true), false)));
        assert_eq!(parse_state("1\tf\tf\n"), Some((Some(1), Some(false), false)));
        assert_eq!(parse_state("\t\tt\n"), Some((None, None, true)));
        for unknown in ["", "x\tt\tt", "1\tt", "1\tyes\tt", "1\tt\t", "-1\tt\tt"] {
            assert_eq!(parse_state(unknown), None, "{unknown}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_psql_prints_makes_it_panic(answer in "(?s).*", said in proptest::collection::vec("(psql:)?.{0,20}(: )?(ERROR: )?.*", 0..6)) {
            let _ = parse_state(&answer);
            let _ = complaint(&said);
        }
    }
}
