//! Fixtures of the crash tests with a database to migrate.

use anyhow::Result;

use super::injection::instruments;
use crate::machines::engine::Engine;
use crate::machines::image::{Debian, Image};
use crate::machines::machine::Storage;
use crate::machines::product_machine::{debian_packages, installed_image, upgrader};
use crate::machines::world::World;
use crate::packages::package::Package;
use crate::packages::shipped::definition::with_definition;

/// A product that is nothing but its database.
const DEFINITION: &str = r#"name = "XiVO"
version-package = "xivo"
[services]
order = ["postgresql"]
settle = "0s"
[database]
kind = "postgresql"
name = "asterisk"
owner = "asterisk"
"#;

/// A database with calls in it, and a table that says which fault the second migration injects.
const DATABASE: &str = "mkdir /var/lib/crash
runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 --command='CREATE ROLE asterisk LOGIN' \
    --command='CREATE DATABASE asterisk OWNER asterisk'
runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 --dbname=asterisk --command=\"SET ROLE asterisk; \
    CREATE TABLE injection (action text); CREATE TABLE calls (id int PRIMARY KEY, caller text); \
    INSERT INTO calls SELECT n, 'agent ' || n FROM generate_series(1, 1000) n\"
systemctl stop postgresql";

const MIGRATIONS: [(&str, &str); 2] = [
    ("001-agents.sql", "CREATE TABLE agents AS SELECT DISTINCT caller FROM calls;\n"),
    (
        "002-answered.sql",
        "ALTER TABLE calls ADD answered int NOT NULL DEFAULT 0;
UPDATE calls SET caller = 'nobody';
DO $$ BEGIN
    IF EXISTS (SELECT FROM injection WHERE action = 'fail') THEN RAISE EXCEPTION 'injected failure'; END IF;
    IF EXISTS (SELECT FROM injection WHERE action = 'wait') THEN PERFORM pg_sleep(10); END IF;
END $$;
",
    ),
];

/// What these machines are made of.
pub(super) const INGREDIENTS: [&str; 4] = [DEFINITION, DATABASE, MIGRATIONS[0].1, MIGRATIONS[1].1];

/// A machine with a PostgreSQL, a product that is older than what is published, and two migrations to apply.
pub(super) fn world(engine: &Engine, debian: Debian) -> Result<World> {
    let mut upgrader = with_definition(upgrader()?, DEFINITION)?;
    for (name, sql) in MIGRATIONS {
        upgrader = upgrader.file(&format!("/usr/share/xivo-upgrade/migrations/{name}"), sql, 0o644);
    }
    let image = image(engine, debian, &upgrader)?;
    let mut world = World::boot_image(Storage::wanted()?, engine, &image)?;
    world.publish([&Package::new("xivo", "1.1"), &upgrader])?;
    world.machine.sh("until pg_isready --quiet; do sleep 0.05; done")?;
    Ok(world)
}

fn image(engine: &Engine, debian: Debian, upgrader: &Package) -> Result<Image> {
    let base = debian_packages(engine, debian, "crash-database", &["strace", "attr", "postgresql"], DATABASE)?;
    let instruments = instruments();
    let wanted = instruments.name.clone();
    installed_image(
        engine,
        &format!("{debian}-crash-database-old"),
        &base,
        &[Package::new("xivo", "1.0"), upgrader.clone(), instruments],
        &wanted,
    )
}
