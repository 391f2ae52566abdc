//! Upgrades of products with a database.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use harness::machines::database::{PREPARE, TABLE, UP, ask, dump, migrations};
use harness::machines::image::Debian;
use harness::machines::machine::Storage;
use harness::machines::product_machine::{self, HOOK_MARKS, OLD_UPGRADER};
use harness::machines::transcript::Transcript;
use harness::machines::world::World;
use harness::packages::package::Package;
use harness::packages::shipped::definition::{PRODUCT, with_definition};

use crate::rollback::keep_failed_upgrades;
use crate::scenario::scenarios;

scenarios! {
    /// An upgrade migrates the database to the schema of its release, with data and ownership intact, and the dump from before can be restored.
    Compared database;
    /// A migration that fails leaves nothing behind, earlier ones stay applied, and the next run continues from there.
    Compared failing_migration;
    /// When a migration fails, packages and services are rolled back, and the database has its old content, owner, privileges and settings.
    Compared rolled_back_migration;
    /// A migration that waits for a table lock of another session ends after its timeout.
    Compared locked_migration;
    /// Preflight reports a database that cannot be migrated, with the reason, before anything is changed.
    Compared unfit_database;
    /// A product's own migration command runs after the packages that bring it, and again in the next run if it failed.
    Compared own_migration_command;
}

/// A product.toml with a database and more lines for it.
fn definition(more: &str) -> String {
    format!("name = \"XiVO\"\nversion-package = \"xivo\"\n[services]\norder = [\"postgresql\"]\n{TABLE}{more}")
}

pub(crate) const MIGRATIONS: &str = "/usr/share/xivo-upgrade/migrations";
const DUMPS: &str = "/var/lib/xivo-upgrade/dumps";

/// An exchange with a real PostgreSQL, xivo 1.0 and this upgrader, for which xivo 1.1 is published.
pub(crate) fn exchange(debian: Debian, upgrader: &Package) -> Result<World> {
    let mut world =
        product_machine::with_debian_packages(Storage::wanted()?, debian, "postgresql", &["postgresql"], PREPARE)?;
    world.publish([&Package::new("xivo", "1.0"), upgrader])?;
    world.install(&["xivo", "xivo-upgrade"])?;
    world.publish([&Package::new("xivo", "1.1")])?;
    world.machine.sh(UP)?;
    Ok(world)
}

/// Today's upgrader for such a product, with more in its product.toml and these migrations.
pub(crate) fn upgrader(more: &str, migrations: &[(&str, &str)]) -> Result<Package> {
    let mut package = with_definition(product_machine::upgrader()?, &definition(more))?;
    for (name, sql) in migrations {
        package = package.file(&format!("{MIGRATIONS}/{name}"), *sql, 0o644);
    }
    Ok(package)
}

const FIRST: (&str, &str) = ("001-agents.sql", "-- Agents.\nCREATE TABLE agents (name text PRIMARY KEY);\n");
const SECOND: (&str, &str) = (
    "002-agents-from-calls.sql",
    "INSERT INTO agents SELECT DISTINCT caller FROM calls;\nALTER TABLE calls ADD FOREIGN KEY (caller) REFERENCES agents;\n",
);
const THIRD: (&str, &str) = (
    "010-answered.sql",
    "CREATE FUNCTION answered() RETURNS int AS $$ BEGIN RETURN 1; END; $$ LANGUAGE plpgsql;\n\
     ALTER TABLE calls ADD answered int NOT NULL DEFAULT answered();\n",
);

/// A maintainer script that stops the server, and lets it start when the migration waits for it.
const GOES_DOWN: &str = r#"#!/bin/sh
set -e
systemctl stop postgresql
while pg_isready --quiet; do sleep 0.1; done
: >/root/down
systemd-run --quiet sh -c 'until tail -1 /var/log/xivo-upgrade.log | grep "step migrate began"; do sleep 0.1; done
    rm /root/down; systemctl start postgresql'
"#;

fn database(debian: Debian) -> Result<String> {
    let mut yesterday = upgrader("", &[FIRST])?;
    OLD_UPGRADER.clone_into(&mut yesterday.version);
    let mut world = exchange(debian, &yesterday)?;
    // Nothing but a migration is pending.
    world.machine.sh("apt-mark hold xivo >/dev/null")?;
    let first = world.upgrade(&[]).answer("[Y/n] ", "y\n").run()?;
    ensure!(migrations(&world.machine)? == "001-agents\n", "{first}");
    world.machine.sh("apt-mark unhold xivo >/dev/null")?;

    // An old dump, and the incomplete dump of a killed run.
    world.machine.sh(&format!(
        "touch {DUMPS}/xivo-asterisk-20200101T000000Z.dump {DUMPS}/xivo-asterisk-20200102T000000Z.dump.part"
    ))?;
    // The server stops while packages change, and starts when the migration waits for it.
    let xivo = Package::new("xivo", "1.2").script("postinst", GOES_DOWN);
    world.publish([&xivo, &upgrader("", &[FIRST, SECOND, THIRD, ("README.md", "Migrations.\n")])?])?;
    let second = world.upgrade(&["--yes"]).exits(0)?;
    world.machine.sh("test ! -e /root/down")?;
    ensure!(migrations(&world.machine)? == "001-agents\n002-agents-from-calls\n010-answered\n", "{second}");
    let counts = "SELECT count(*), sum(answered), (SELECT count(*) FROM agents) FROM calls";
    query_gives(&world, counts, "1000|1000|1000\n", &second)?;
    let of_others = "SELECT relname FROM pg_class JOIN pg_roles r ON r.oid = relowner JOIN pg_namespace n ON n.oid = relnamespace \
                     WHERE rolname <> 'asterisk' AND nspname IN ('public', 'xivo_upgrade')";
    query_gives(&world, of_others, "", &second)?;

    // Both dumps of today exist and only root can read them; the newer one has the state before the second run.
    let dumps = world.machine.sh(&format!("find {DUMPS} -printf '%y %m %u\\n' | sort"))?;
    ensure!(dumps == format!("d 700 root\n{}", "f 600 root\n".repeat(4)), "{dumps}");
    world.machine.sh(&format!(
        "runuser -u postgres -- createdb restored
        ls {DUMPS}/*.dump | tail -1 | xargs cat | runuser -u postgres -- pg_restore --exit-on-error --dbname=restored"
    ))?;
    let restored =
        ask(&world.machine, "restored", "SELECT count(*), (SELECT count(*) FROM agents), min(c::text) FROM calls c")?;
    ensure!(restored == "1000|0|(1,\"agent 1\")\n", "the dump has {restored}");
    ensure!(ask(&world.machine, "restored", "SELECT name FROM xivo_upgrade.migrations")? == "001-agents\n");

    nothing_to_upgrade(&world)?;
    Ok(world.shown(&[&first, &second]))
}

/// Checks that another run finds nothing to do.
pub(crate) fn nothing_to_upgrade(world: &World) -> Result<()> {
    let transcript = world.upgrade(&["--yes"]).exits(0)?;
    ensure!(transcript.screen.contains("Nothing to upgrade"), "{transcript}");
    Ok(())
}

/// Fails unless a query of the database has this result.
fn query_gives(world: &World, sql: &str, expected: &str, transcript: &Transcript) -> Result<()> {
    let seen = ask(&world.machine, "asterisk", sql)?;
    ensure!(seen == expected, "{sql}: {seen}, not {expected}: {transcript}");
    Ok(())
}

fn failing_migration(debian: Debian) -> Result<String> {
    let bad = (
        "002-bad.sql",
        "CREATE TABLE halves (x int);\nUPDATE calls SET caller = 'gone';\nINSERT INTO agents\n  SELECT caller FROM calls;\n",
    );
    let world = exchange(debian, &upgrader("", &[FIRST, bad])?)?;
    keep_failed_upgrades(&world)?;
    let marks = &format!("cat {HOOK_MARKS}");
    let failed = world.upgrade(&["--yes"]).exits(5)?;
    ensure!(migrations(&world.machine)? == "001-agents\n", "{failed}");
    let left = "SELECT to_regclass('halves') IS NULL, count(*) FROM calls WHERE caller = 'gone'";
    query_gives(&world, left, "t|0\n", &failed)?;
    ensure!(!world.machine.sh(marks)?.contains("post-upgrade"), "hooks ran after a failed migration: {failed}");

    // The server ends the session during the migration.
    let killed = "CREATE TABLE halves (x int);\nSET ROLE NONE;\nSELECT pg_terminate_backend(pg_backend_pid());\n";
    world.machine.write(&format!("{MIGRATIONS}/{}", bad.0), killed.as_bytes(), 0o644)?;
    let killed = world.upgrade(&["--yes"]).exits(5)?;
    ensure!(killed.screen.contains("FATAL: terminating connection"), "{killed}");
    ensure!(migrations(&world.machine)? == "001-agents\n", "{killed}");
    query_gives(&world, "SELECT to_regclass('halves') IS NULL", "t\n", &killed)?;

    world.machine.write(&format!("{MIGRATIONS}/{}", bad.0), SECOND.1.as_bytes(), 0o644)?;
    let again = world.upgrade(&["--yes"]).exits(0)?;
    ensure!(migrations(&world.machine)? == "001-agents\n002-bad\n", "{again}");
    query_gives(&world, "SELECT count(*) FROM agents", "1000\n", &again)?;
    ensure!(world.machine.sh(marks)?.contains("post-upgrade"), "no hook ran: {again}");
    Ok(format!("{}\nrepaired and started again:\n{}", world.shown(&[&failed]), world.shown(&[&again])))
}

fn rolled_back_migration(debian: Debian) -> Result<String> {
    let bad = ("002-bad.sql", "INSERT INTO agents VALUES ('a'), ('a');\n");
    let world = exchange(debian, &upgrader("", &[FIRST, bad])?)?;
    // A session that is always connected, as those of a product's services are.
    world.machine.sh(
        "runuser -u postgres -- psql --quiet --command='ALTER DATABASE asterisk SET work_mem = 5555' \
             --command='REVOKE CONNECT ON DATABASE asterisk FROM public'
         systemd-run --quiet --unit=reader --property=Restart=always runuser -u postgres -- psql --dbname=asterisk --command='SELECT pg_sleep(600)'",
    )?;
    let before = dump(&world.machine)?;
    let undone = world.upgrade(&["--yes"]).exits(4)?;
    ensure!(dump(&world.machine)? == before, "{before}\nbecame\n{}\n{undone}", dump(&world.machine)?);
    ensure!(world.machine.version("xivo")? == "1.0", "{undone}");
    ensure!(!world.machine.sh(&format!("cat {HOOK_MARKS}"))?.contains("post-upgrade"), "{undone}");
    let last = ask(&world.machine, "postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'asterisk_2%'")?;
    ensure!(ask(&world.machine, last.trim(), "SELECT count(*) FROM xivo_upgrade.migrations")? == "1\n", "{last}");

    // With a correct migration the upgrade succeeds.
    world.machine.sh(&format!("echo 'SELECT 1;' >{MIGRATIONS}/{}", bad.0))?;
    let again = world.upgrade(&["--yes"]).run()?;
    ensure!(again.exit == 0 && migrations(&world.machine)? == "001-agents\n002-bad\n", "{again}");
    let (_, end) = undone.screen.split_once("Upgrading packages\n").unwrap_or_default();
    Ok(world.redacted(&Transcript { screen: format!("…\n{end}"), ..undone }.to_string()))
}

fn locked_migration(debian: Debian) -> Result<String> {
    let world = exchange(debian, &upgrader("", &[THIRD])?)?;
    keep_failed_upgrades(&world)?;
    // An open transaction has read from the table.
    world.machine.sh(
        "systemd-run --quiet --unit=reader runuser -u postgres -- psql --dbname=asterisk \
             --command='BEGIN; SELECT count(*) FROM calls; SELECT pg_sleep(600)'
        until runuser -u postgres -- psql -XAtc \"SELECT 1 FROM pg_locks WHERE relation = 'calls'::regclass\" asterisk | grep 1
        do sleep 0.1; done",
    )?;
    let waited = world.upgrade(&["--yes"]).exits(5)?;
    let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'calls'::regclass AND attname = 'answered'";
    query_gives(&world, columns, "0\n", &waited)?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND pid <> pg_backend_pid()";
    query_gives(&world, end, "t\n", &waited)?;
    world.machine.sh("while systemctl is-active --quiet reader; do sleep 0.1; done")?;
    let again = world.upgrade(&["--yes"]).exits(0)?;
    ensure!(migrations(&world.machine)? == "010-answered\n", "{again}");
    let (_, end) = waited.screen.split_once("Upgrading packages\n").unwrap_or_default();
    ensure!(!end.is_empty(), "{waited}");
    Ok(world.redacted(&Transcript { screen: format!("…\n{end}"), ..waited }.to_string()))
}

fn unfit_database(debian: Debian) -> Result<String> {
    let world = exchange(debian, &upgrader("", &[FIRST])?)?;
    world.machine.sh("apt-mark hold xivo >/dev/null")?;
    let first = world.upgrade(&["--yes"]).run()?;
    ensure!(migrations(&world.machine)? == "001-agents\n", "{first}");
    world.machine.sh(&format!("apt-mark unhold xivo >/dev/null; rm -r {DUMPS}"))?;

    let write = |name: &str, sql: &str| format!("echo '{sql}' >{MIGRATIONS}/{name}");
    let pending = write("002-pending.sql", "SELECT 1;");
    let psql = |sql: &str| format!("runuser -u postgres -- psql --quiet --dbname=asterisk --command=\"{sql}\"");
    // No hook ran, no package changed, the server was not restarted.
    let state = format!(
        "cat {HOOK_MARKS}; dpkg-query --show; cat /var/lib/postgresql/*/main/postmaster.pid 2>/dev/null | head -3"
    );
    let replaced = |key: &str| format!("sed -i 's/^{key} = \"asterisk\"/{key} = \"gone\"/' {PRODUCT}");
    let server =
        |verb: &str, wait: &str| format!("systemctl {verb} postgresql; {wait} pg_isready --quiet; do sleep 0.1; done");
    let insert = psql("INSERT INTO xivo_upgrade.migrations (name, checksum) VALUES ('002-from-the-future', '0')");
    let delete = psql("DELETE FROM xivo_upgrade.migrations WHERE name LIKE '002%'");
    let no_text = format!("printf '\\377' >{MIGRATIONS}/002-pending.sql");
    let full = format!("{pending}; mkdir {DUMPS}; mount -t tmpfs -o size=1m none {DUMPS}");
    let mut shown = String::new();
    for (what, breakage, repair) in [
        ("the server is down", server("stop", "while"), server("start", "until")),
        ("there is no such database", replaced("name"), String::new()),
        ("there is no such owner", replaced("owner"), String::new()),
        ("a migration changed after it was applied", write(FIRST.0, "SELECT 1;"), String::new()),
        ("the database is newer", insert, delete),
        ("a migration that ends its transaction", write("002-own.sql", "SELECT 1;\nCOMMIT;"), String::new()),
        ("a file that would never be applied", write("2_name.sql", "SELECT 1;"), String::new()),
        ("a file that is no text", no_text, String::new()),
        ("the disk is full", full, format!("umount {DUMPS}; rmdir {DUMPS}")),
    ] {
        world.machine.sh(&format!("cp -a /usr/share/xivo-upgrade /root/good\n{breakage}"))?;
        let before = world.machine.sh(&state)?;
        let transcript = world.upgrade(&["--yes"]).exits(1).context(what)?;
        ensure!(world.machine.sh(&state)? == before, "{what}: the machine changed: {transcript}");
        writeln!(shown, "{what}:\n{}", world.shown(&[&transcript]))?;
        let restore = "rm -r /usr/share/xivo-upgrade; mv /root/good /usr/share/xivo-upgrade";
        world.machine.sh(&format!("{restore}\n{repair}"))?;
        ensure!(migrations(&world.machine)? == "001-agents\n", "{what}: {transcript}");
        world.machine.sh(&format!("test ! -e {DUMPS}"))?;
    }

    // A standby replicates the migrations of its primary; the rest of the upgrade runs.
    world.machine.sh(&format!(
        "{pending}; touch $(echo /var/lib/postgresql/*/main)/standby.signal; systemctl restart postgresql"
    ))?;
    let standby = world.upgrade(&["--yes"]).exits(0)?;
    ensure!(migrations(&world.machine)? == "001-agents\n", "{standby}");
    writeln!(shown, "the server is a standby:\n{}", world.shown(&[&standby]))?;
    Ok(shown)
}

/// A product's own command: each pending migration is a file, which the command removes.
const OWN: &str = r#"#!/bin/sh
set -eu
case $1 in
pending) ls /usr/share/xivo-dbms ;;
upgrade)
    for migration in /usr/share/xivo-dbms/*; do
        echo "applying ${migration##*/}"
        runuser -u postgres -- psql -Xq --set=ON_ERROR_STOP=1 --dbname=asterisk --command='SET ROLE asterisk' --file="$migration"
        rm "$migration"
    done ;;
esac
"#;

fn own_migration_command(debian: Debian) -> Result<String> {
    let command = "migrate = [\"xivo-dbms\", \"upgrade\"]\n";
    let with_pending = format!("{command}pending = [\"xivo-dbms\", \"pending\"]\n");
    let mut world = exchange(debian, &upgrader(&with_pending, &[])?)?;
    keep_failed_upgrades(&world)?;
    let release = |version: &str, migrations: &[(&str, &str)]| {
        let package = Package::new("xivo", version).file("/usr/bin/xivo-dbms", OWN, 0o755);
        let path = |name| format!("/usr/share/xivo-dbms/{name}");
        migrations.iter().fold(package, |package, (name, sql)| package.file(&path(name), *sql, 0o644))
    };
    world.publish([&release("1.2", &[("agents", FIRST.1), ("more", SECOND.1)])])?;
    let first = world.upgrade(&["--yes"]).exits(0)?;
    query_gives(&world, "SELECT count(*) FROM agents", "1000\n", &first)?;
    world.machine.sh(&format!("test $(ls {DUMPS}/*.dump | wc -l) = 1"))?;
    nothing_to_upgrade(&world)?;

    // A command without `pending` runs after each change of packages, until it succeeds.
    world.machine.write(PRODUCT, definition(command).as_bytes(), 0o644)?;
    world.publish([&release("1.3", &[("bad", "SELECT nothing;\n")])])?;
    let failed = world.upgrade(&["--yes"]).exits(5)?;
    world.machine.write("/usr/share/xivo-dbms/bad", THIRD.1.as_bytes(), 0o644)?;
    let again = world.upgrade(&["--yes"]).exits(0)?;
    query_gives(&world, "SELECT sum(answered) FROM calls", "1000\n", &again)?;
    nothing_to_upgrade(&world)?;
    let [first, failed, again] = [first, failed, again].map(|transcript| world.shown(&[&transcript]));
    Ok(format!("{first}\nit fails:\n{failed}\nrepaired and started again:\n{again}"))
}
