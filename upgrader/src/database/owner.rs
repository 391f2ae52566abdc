//! Sessions in the product's database, authenticated as a role that has its owner's rights and nothing more.
//!
//! The owner decides what a statement there means: views, triggers, operators and settings are its own. So no session there may be able
//! to do more, not even after `RESET ROLE`. The owner itself may have no password and no account on the machine. A role of ours is
//! a member of it for the time of the session, with a password that nobody else ever has.

use std::fs::File;
use std::mem::ManuallyDrop;

use anyhow::{Context as _, Result, anyhow, bail};

use super::migrations::{Applied, Migration, parse_applied};
use super::psql::{self, LONG_LIMIT, QUERY_LIMIT, READING};
use super::scram;
use crate::config::product::Database;
use crate::exit::{Explain as _, Failure};
use crate::system::command::{Failed, PATH, Program};

/// How long a statement waits for a lock of another session, in seconds. All later sessions that use the table wait, too.
const LOCK_TIMEOUT: u32 = 20;

/// How long the password is good for: programs connect at once.
const VALID: &str = "5 min";

/// The settings of a session that must not write, with the search path of the database.
const READ_ONLY: &str = "-c default_transaction_read_only=on -c statement_timeout=6h -c lock_timeout=20s";

/// The settings of a session that writes.
const WRITING: &str = "-c default_transaction_read_only=off -c statement_timeout=6h -c lock_timeout=20s";

/// How many records of migrations are read. The table is its owner's: it may be endless.
const RECORDS: u32 = 10_000;

/// How many bytes of what a migration prints are logged.
const MOST_OUTPUT: usize = 4 << 20;

/// How many of its lines are kept, to find its first error.
const MOST_LINES: usize = 1000;

/// The first version of the server with `transaction_timeout`.
const TRANSACTION_TIMEOUT: u32 = 17;

/// A role that can open sessions as the owner of a database, until this is dropped.
#[derive(Debug)]
pub(super) struct OwnerRole<'a> {
    database: &'a Database,
    /// Its name on the server.
    role: &'a str,
    password: String,
    port: String,
    tls: bool,
    /// The version of the server: `15`.
    version: String,
}

impl<'a> OwnerRole<'a> {
    /// Creates the role, and removes what a killed run has left of it, its sessions included.
    pub(super) fn create(database: &'a Database, role: &'a str) -> Result<Self> {
        let failure = || Failure::new(format!("the role {role} cannot be created on the database server"));
        let (password, verifier) = scram::password().explain(failure)?;
        let owner = &database.owner;
        // It may own something if what the owner made has done that. Then it stays, and is set right.
        let script = format!(
            "\\set ON_ERROR_STOP off\nSELECT now() + interval '{VALID}' AS until \\gset\n{};\nDROP ROLE IF EXISTS \"{role}\";\nCREATE ROLE \"{role}\";\n\\set ON_ERROR_STOP on\n\
             ALTER ROLE \"{role}\" RESET ALL;\n\
             ALTER ROLE \"{role}\" NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT LOGIN \
             PASSWORD '{verifier}' VALID UNTIL :'until';\n\
             ALTER ROLE \"{role}\" SET lc_messages = 'C';\n\
             GRANT \"{owner}\" TO \"{role}\";\n\
             SELECT current_setting('port'), current_setting('ssl'), current_setting('server_version_num')::int / 10000;\n",
            end_sessions(role)
        );
        let answer = psql::feed(&script).explain(failure)?;
        let fields: Vec<&str> = answer.split('\t').collect();
        let [port, tls, version] = fields[..] else { bail!("psql printed {answer:?}") };
        Ok(Self { database, role, password, port: port.to_owned(), tls: tls == "on", version: version.to_owned() })
    }

    /// A program of PostgreSQL's that connects as this role and is the owner then, with more settings of the session.
    fn program(&self, program: &str, settings: &str) -> Program {
        let limit = if settings == READING { QUERY_LIMIT } else { LONG_LIMIT };
        // With TLS, the password proves that this is the server; without, it goes to no server that asks for the password itself.
        let (tls, binding) = if self.tls { ("require", "require") } else { ("disable", "prefer") };
        let variables = [
            // The programs of the server's own version.
            ("PATH", &*format!("/usr/lib/postgresql/{}/bin:{PATH}", self.version)),
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", &self.port),
            ("PGUSER", self.role),
            ("PGPASSWORD", &self.password),
            ("PGSSLMODE", tls),
            ("PGCHANNELBINDING", binding),
            ("PGREQUIREAUTH", "scram-sha-256"),
            ("PGGSSENCMODE", "disable"),
            ("PGCONNECT_TIMEOUT", "10"),
        ];
        let has_timeout = self.version.trim().parse::<u32>().is_ok_and(|version| version >= TRANSACTION_TIMEOUT);
        let timeout = if has_timeout { " -c transaction_timeout=0" } else { "" };
        let options = format!("{settings}{timeout} -c role={}", self.database.owner);
        let program = psql::as_nobody(program, limit, &options);
        variables.iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    fn psql(&self, settings: &str) -> Program {
        psql::plain(self.program("psql", settings), &self.database.name)
    }

    fn query(&self, sql: &str) -> Result<String> {
        let Self { database: Database { name, owner, .. }, role, port, .. } = self;
        psql::output(self.psql(READING).setting(format!("--command={sql}"))).map_err(|error| {
            let failed = error.downcast_ref::<Failed>();
            if failed.is_some_and(|failed| failed.code == Some(2)) {
                return error.context(
                    Failure::new(format!("no session as the owner of the database {name}")).remedy(format!(
                        "Let the role {role} in, as Debian's pg_hba.conf does: `host {name} {role} 127.0.0.1/32 scram-sha-256`, \
                         and have the server listen on 127.0.0.1, port {port}; then `systemctl reload postgresql`."
                    )),
                );
            }
            if is_lock_timeout(&format!("{error:#}")) {
                return error.context(waited());
            }
            error.context(
                Failure::new(format!("the database {name} cannot be asked as {owner}"))
                    .remedy("Fix the error, then start again."),
            )
        })
    }

    /// The migrations that were applied to the database. Its owner may change what it finds here, and gains nothing by that.
    pub(super) fn applied(&self, schema: &str) -> Result<Vec<Applied>> {
        let table = format!("\"{schema}\".migrations");
        if self.query(&format!("SELECT to_regclass('{table}') IS NOT NULL"))?.trim() != "t" {
            return Ok(Vec::new());
        }
        let rows = self.query(&format!(
            "SELECT left(name, 200), left(coalesce(checksum, ''), 200) FROM {table} ORDER BY name LIMIT {RECORDS}"
        ))?;
        Ok(parse_applied(&rows))
    }

    /// Makes sure that the owner can save and restore everything in the database.
    ///
    /// # Errors
    /// If something belongs to another role, or is an extension that only the superuser can create and that the product does not
    /// declare.
    pub(super) fn check_contents(&self) -> Result<()> {
        let Database { name, owner, extensions, .. } = self.database;
        let foreign =
            self.query(&format!("{FOREIGN} AND extname <> ALL ('{{{}}}') ORDER BY 1 LIMIT 10", extensions.join(",")))?;
        if foreign.is_empty() {
            return Ok(());
        }
        let foreign = foreign.trim_end().replace('\n', ", ");
        Err(Failure::new(format!("the owner {owner} cannot save and restore this in the database {name}: {foreign}"))
            .remedy(
                "Remove it, or make the owner its owner (`ALTER … OWNER TO …`). The vendor declares extensions in product.toml \
                 (database.extensions). Then start again.",
            )
            .into())
    }

    /// Applies a migration, and records it, both in one transaction.
    ///
    /// # Errors
    /// With PostgreSQL's words, which name file and line.
    pub(super) fn apply(&self, schema: &str, migration: &Migration, line: &mut dyn FnMut(&str)) -> Result<()> {
        let (owner, records) = (&self.database.owner, format!("\"{schema}\".migrations"));
        let before = format!(
            "SET TRANSACTION READ WRITE; \
             CREATE SCHEMA IF NOT EXISTS \"{schema}\"; \
             CREATE TABLE IF NOT EXISTS {records} (name text PRIMARY KEY, checksum text, applied timestamptz NOT NULL DEFAULT now())"
        );
        let after = format!(
            "SET ROLE \"{owner}\"; INSERT INTO {records} (name, checksum) VALUES ('{}', '{}')",
            migration.name, migration.checksum
        );
        let place = format!("psql:{}:", migration.path.display());
        let mut said: Vec<String> = Vec::new();
        let mut printed = 0_usize;
        // What is not in the transaction can write nothing, so that no migration does half of its work outside of it.
        let result = self
            .psql(READ_ONLY)
            .setting("--single-transaction")
            .setting(format!("--command={before}"))
            .setting("--file=-")
            .setting(format!("--command={after}"))
            .feed(migration.text()?, &mut |text| {
                let text = text.replacen("psql:<stdin>:", &place, 1);
                printed = printed.saturating_add(text.len());
                if printed <= MOST_OUTPUT {
                    line(&text);
                }
                // An error is the last line or the one before, and the first may say why.
                if said.len() < MOST_LINES || text.contains("ERROR:") {
                    said.truncate(MOST_LINES);
                    said.push(text);
                }
            });
        let result = result.map_err(|error| psql::complaint(&said).map_or(error, |complaint| anyhow!(complaint)));
        if said.iter().any(|line| is_lock_timeout(line)) {
            return result.with_context(waited);
        }
        result
    }

    /// Writes a dump of the database, in `pg_dump`'s compressed format, into a file.
    pub(super) fn dump(&self, file: File) -> Result<()> {
        self.program("pg_dump", READ_ONLY)
            .settings(&["--no-password", "--format=custom"][..])
            .arg(format!("--lock-wait-timeout={LOCK_TIMEOUT}s"))
            .arg(format!("--dbname={}", self.database.name))
            .into_file(file)
            .map_err(|error| {
                // pg_dump waits for locks by way of this timeout.
                let has_waited = format!("{error:#}").contains("canceling statement due to statement timeout");
                if has_waited { error.context(waited()) } else { error }
            })
    }

    /// What is in a dump, as `pg_restore --list` prints it.
    pub(super) fn contents(&self, dump: File) -> Result<String> {
        psql::output(self.program("pg_restore", READING).setting("--list").stdin(dump))
    }

    /// Restores what a list of contents names into an empty database.
    pub(super) fn restore(&self, into: &str, dump: File, list: &str, line: &mut dyn FnMut(&str)) -> Result<()> {
        self.program("pg_restore", WRITING)
            .settings(&["--no-password", "--exit-on-error"][..])
            .arg(format!("--dbname={into}"))
            .setting(format!("--use-list={list}"))
            .stdin(dump)
            .lines(line)
    }
}

impl Drop for OwnerRole<'_> {
    /// Removes the role. If that fails, it cannot log in any more, or its password, which nobody has, ends in minutes; the next run removes it.
    fn drop(&mut self) {
        let (role, owner) = (self.role, &self.database.owner);
        // Anybody can have given it a privilege in the database `postgres`.
        let drop = format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"");
        let gone = || psql::write("postgres", &[&end_sessions(role), &drop], &mut |_| ());
        if gone().is_err()
            && let Ok(again) = OwnerRole::create(self.database, role)
        {
            // What the owner made has let this role own something, and may have changed its password.
            let again = ManuallyDrop::new(again);
            let reassign =
                format!("SET ROLE NONE; REASSIGN OWNED BY \"{role}\" TO \"{owner}\"; DROP OWNED BY \"{role}\"");
            let _ = again.psql(WRITING).setting(format!("--command={reassign}")).lines(&mut |_| ());
            if gone().is_err() {
                let disable =
                    format!("ALTER ROLE \"{role}\" NOLOGIN PASSWORD NULL; REVOKE \"{owner}\" FROM \"{role}\"");
                let _ = psql::write("postgres", &[&disable], &mut |_| ());
            }
        }
    }
}

/// Ends the sessions of a role, and waits until they are gone.
fn end_sessions(role: &str) -> String {
    format!("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = '{role}'")
}

fn is_lock_timeout(text: &str) -> bool {
    text.contains("canceling statement due to lock timeout")
}

/// Says that another session holds a table, and how to find that session.
fn waited() -> String {
    format!(
        "it waited {LOCK_TIMEOUT} s for another session that uses the same table (`runuser -u postgres -- psql \
         --command='SELECT pid, usename, state, query FROM pg_stat_activity'` shows who)"
    )
}

/// What belongs to roles that the owner is no member of, but for what the server and extensions bring, and the extensions that only the
/// superuser can create.
const FOREIGN: &str = "SELECT what FROM ( \
    SELECT 'table ' || oid::regclass AS what, tableoid AS class, oid, relowner AS owner FROM pg_class \
        WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't' \
    UNION SELECT 'function ' || oid::regprocedure, tableoid, oid, proowner FROM pg_proc \
    UNION SELECT 'schema ' || nspname, tableoid, oid, nspowner FROM pg_namespace WHERE nspname !~ '^pg_' \
    UNION SELECT 'event trigger ' || evtname, tableoid, oid, evtowner FROM pg_event_trigger \
    ) f WHERE oid >= 16384 AND NOT pg_has_role(owner, 'MEMBER') \
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = class AND d.objid = f.oid AND deptype = 'e') \
    UNION SELECT 'extension ' || extname FROM pg_extension e JOIN pg_available_extension_versions v \
    ON v.name = extname AND v.version = extversion WHERE NOT trusted AND e.oid >= 16384";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_time_limits_are_those_that_are_set() {
        let page = documented::text("docs/reference/migrations.md");
        assert!(page.contains(&format!("waits at most {LOCK_TIMEOUT} s for a lock")));
        assert!(page.contains(&format!("takes at most {} hours", LONG_LIMIT.as_secs() / 3600)));
        for settings in [READ_ONLY, WRITING, READING] {
            assert!(settings.contains(&format!("lock_timeout={LOCK_TIMEOUT}s")), "{settings}");
        }
    }
}
