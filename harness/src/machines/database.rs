//! The product's database in Debian's PostgreSQL.

use anyhow::Result;
use toml::Table;

use crate::machines::machine::Machine;
use crate::packages::package::Package;
use crate::packages::release::Release;
use crate::packages::shipped::definition;

/// Sets up Debian's PostgreSQL like the product's wizard: a database with calls and its owner, a role without other privileges.
pub const PREPARE: &str = "runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 \
     --command='CREATE ROLE asterisk LOGIN' --command='CREATE DATABASE asterisk OWNER asterisk'
runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 --dbname=asterisk --command=\"SET ROLE asterisk; \
     CREATE TABLE calls (id int PRIMARY KEY, caller text); \
     INSERT INTO calls SELECT n, 'agent ' || n FROM generate_series(1, 1000) n\"
systemctl stop postgresql";

/// The number of calls.
pub const CALLS: &str = "1000";

/// The name of the database and of its owner.
pub const NAME: &str = "asterisk";

/// Its table in product.toml.
pub const TABLE: &str = r#"
[database]
kind = "postgresql"
name = "asterisk"
owner = "asterisk"
"#;

/// Waits until the server answers.
pub const UP: &str = "until pg_isready --quiet; do sleep 0.05; done";

/// The package of Debian that a release replaces with a synthetic one, on machines without a database.
const SERVER: &str = "postgresql";

/// A copy of the database.
const COPY: &str = "reference";

/// Prints the owner and the privileges of the database, and whether it accepts connections.
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

/// The result of a query.
pub fn ask(machine: &Machine, database: &str, sql: &str) -> Result<String> {
    let sql = sql.replace('"', "\\\"");
    machine
        .sh(&format!("runuser -u postgres -- psql -XAtq --set=ON_ERROR_STOP=1 --dbname={database} --command=\"{sql}\""))
}

/// The names of the applied migrations, a line each.
pub fn migrations(machine: &Machine) -> Result<String> {
    ask(machine, NAME, "SELECT name FROM xivo_upgrade.migrations ORDER BY name")
}

/// The content, owner, privileges and settings of the database.
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
