//! The product's database in Debian's PostgreSQL.

use anyhow::Result;
use toml::Table;

use crate::machines::machine::Machine;
use crate::packages::package::Package;
use crate::packages::release::Release;
use crate::packages::shipped::definition;

/// What the product's wizard has done to Debian's PostgreSQL: a database of an owner who may do nothing else, with calls in it.
pub const PREPARE: &str = "runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 \
     --command='CREATE ROLE asterisk LOGIN' --command='CREATE DATABASE asterisk OWNER asterisk'
runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 --dbname=asterisk --command=\"SET ROLE asterisk; \
     CREATE TABLE calls (id int PRIMARY KEY, caller text); \
     INSERT INTO calls SELECT n, 'agent ' || n FROM generate_series(1, 1000) n\"
systemctl stop postgresql";

/// How many that are.
pub const CALLS: &str = "1000";

/// What it is called, and its owner, too.
pub const NAME: &str = "asterisk";

/// What product.toml says of it.
pub const TABLE: &str = r#"
[database]
kind = "postgresql"
name = "asterisk"
owner = "asterisk"
"#;

/// Waits until the server answers.
pub const UP: &str = "until pg_isready --quiet; do sleep 0.05; done";

/// The package of Debian's that a release's own is a stand-in of, on machines without a database.
const SERVER: &str = "postgresql";

/// A copy of it, as it was once.
const COPY: &str = "reference";

/// Prints whose the database is, who may use it, and whether anybody may.
const SETTINGS: &str = "runuser -u postgres -- psql -XAt --command=\"SELECT ARRAY(SELECT given::text FROM unnest(datacl) AS given ORDER BY 1), \
    pg_get_userbyid(datdba), datallowconn FROM pg_database WHERE datname = 'asterisk'\"";

/// A release for machines that have Debian's PostgreSQL.
pub fn release(version: &str) -> Result<Release> {
    let mut release = Release::named(version)?;
    release.packages.retain(|package| package.name != SERVER);
    Ok(release)
}

/// The upgrader as it is published with a release for such machines.
pub fn upgrader(upgrader: Package, release: &Release) -> Result<Package> {
    definition::edited(release.with_migrations(upgrader), describe)
}

/// Adds [`TABLE`] to a product.toml.
pub(crate) fn describe(definition: &mut Table) -> Result<()> {
    definition.extend(toml::from_str::<Table>(TABLE)?);
    Ok(())
}

/// What a database answers.
pub fn ask(machine: &Machine, database: &str, sql: &str) -> Result<String> {
    let sql = sql.replace('"', "\\\"");
    machine
        .sh(&format!("runuser -u postgres -- psql -XAtq --set=ON_ERROR_STOP=1 --dbname={database} --command=\"{sql}\""))
}

/// The migrations that the database says were applied, a line each.
pub fn migrations(machine: &Machine) -> Result<String> {
    ask(machine, NAME, "SELECT name FROM xivo_upgrade.migrations ORDER BY name")
}

/// All that makes the database: what is in it, whose it is, who may use it, how it is set.
pub fn dump(machine: &Machine) -> Result<String> {
    let [dump, settings] = machine.ask([&dump_script(&format!("--create {NAME}")), SETTINGS])?;
    Ok(dump + &settings)
}

/// Copies it, to be compared with it later.
pub(crate) fn copy(machine: &Machine) -> Result<()> {
    machine.sh(&format!("runuser -u postgres -- createdb --template={NAME} --owner={NAME} {COPY}")).map(drop)
}

/// What psql(1) makes of the copy with the migrations of a release, and what there is in the database, but for the upgrader's own notes.
pub(crate) fn copy_and_database(machine: &Machine, release: &Release) -> Result<[String; 2]> {
    for migration in &release.migrations {
        machine.sh(&format!(
            "runuser -u postgres -- psql -Xq --set=ON_ERROR_STOP=1 --dbname={COPY} <<'END'\nSET ROLE {NAME};\n{}\nEND",
            migration.sql
        ))?;
    }
    machine.ask([&dump_script(COPY), &dump_script(&format!("--exclude-schema=xivo_upgrade {NAME}"))])
}

/// Prints what is in a database, as SQL. Each dump has a word of its own, in lines that restrict what psql(1) does with it.
fn dump_script(arguments: &str) -> String {
    format!(
        "dump=$(runuser -u postgres -- pg_dump {arguments})
        printf '%s\\n' \"$dump\" | grep -v '^.\\(un\\)*restrict '"
    )
}
