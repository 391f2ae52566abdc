//! Crash tests of an upgrade to the next Debian release, with packages from a mirror.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::machines::image::Debian;
use crate::machines::machine::Storage;
use crate::machines::product_machine::{upgrader, with_debian_packages};
use crate::machines::transcript::Transcript;
use crate::machines::world::World;
use crate::observe::inventory::{Inventory, Section};
use crate::observe::timeline::{self, SpanKind};
use crate::packages::package::Package;
use crate::packages::shipped::definition::with_definition;

/// What is on the machine beside what every machine has.
const PACKAGES: [&str; 6] = ["postgresql", "nginx-light", "python3", "openssh-server", "cron", "attr"];

/// A product that is made of Debian's own services.
const DEFINITION: &str = r#"name = "XiVO"
version-package = "xivo"
[services]
order = ["postgresql", "nginx", "ssh", "cron"]
settle = "2s"
"#;

/// Its services.
pub(crate) const SERVICES: [&str; 4] = ["postgresql", "nginx", "ssh", "cron"];

/// A database with something in it.
const DATA: &str = "runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 --command='CREATE DATABASE asterisk'
runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 --dbname=asterisk \
    --command='CREATE TABLE calls AS SELECT n AS id FROM generate_series(1, 100000) n'
systemctl stop postgresql";

/// Prints the name of the machine's Debian.
pub(crate) const VERSION: &str = ". /etc/os-release; echo $VERSION_CODENAME";

/// How long an upgrade may take, mirror included.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(25 * 60);

/// A machine of Debian 12 with services of Debian's own and data in a database, and version 1.0 of the product.
pub(crate) fn with_services(disk: Storage) -> Result<World> {
    let mut world = with_debian_packages(disk, Debian::Bookworm, "to-trixie", &PACKAGES, DATA)?;
    world.publish([&Package::new("xivo", "1.0"), &with_definition(upgrader()?, DEFINITION)?])?;
    world.install(&["xivo", "xivo-upgrade"])?;
    world.machine.sh("until pg_isready --quiet; do sleep 0.1; done")?;
    Ok(world)
}

/// The same on its way to Debian 13.
pub(crate) fn world(disk: Storage) -> Result<World> {
    let mut world = with_services(disk)?;
    world.publish([&Package::new("xivo", "1.1")])?;
    world.machine.sh("sed 's/bookworm/trixie/' /etc/apt/debian-sources/sources.list >/etc/apt/sources.list")?;
    Ok(world)
}

fn upgrade(world: &World) -> Result<Transcript> {
    let transcript = world.upgrade(&["--yes"]).timeout(TIMEOUT).run()?;
    let unreachable = "a package source cannot be read";
    ensure!(
        !transcript.screen.contains(unreachable),
        "Debian's mirror cannot be reached: this was not tried\n{transcript}"
    );
    Ok(transcript)
}

/// Upgrades completely: the next Debian is installed, its services run, and the database has its data. Fails, too, if Debian's mirror cannot
/// be reached: a skipped test would look like a passed one.
pub fn complete() -> Result<()> {
    let world = world(Storage::Layers)?;
    let transcript = upgrade(&world)?;
    ensure!(matches!(transcript.exit, 0 | 6), "{transcript}");
    let machine = &world.machine;
    ensure!(machine.sh(VERSION)? == "trixie\n", "{transcript}");
    machine.sh(
        "systemctl is-active postgresql nginx ssh cron; test -z \"$(dpkg --audit)\"; test ! -e /usr/sbin/policy-rc.d",
    )?;
    let count = "runuser -u postgres -- psql -XAt --dbname=asterisk --command='SELECT count(*) FROM calls'";
    ensure!(machine.sh(count)? == "100000\n", "{transcript}");
    Ok(())
}

/// Lets an upgrade fail at the very end, when every package is installed and services restart. The rollback restores Debian 12, path by path,
/// and the next run without the fault completes.
pub fn rolled_back(disk: Storage) -> Result<NextDebianRollback> {
    let world = world(disk)?;
    let machine = &world.machine;
    let condition = "[Service]\nExecStartPre=/bin/sh -c '! grep -q ^13 /etc/debian_version'\n";
    machine.write("/etc/systemd/system/cron.service.d/old.conf", condition.as_bytes(), 0o644)?;
    machine.sh("systemctl daemon-reload; systemctl restart cron")?;
    let before = Inventory::collect(machine, &[Section::Files]).context("the machine before")?;
    let transcript = upgrade(&world)?;
    ensure!(transcript.exit == 4, "{transcript}");
    ensure!(machine.sh(VERSION)? == "bookworm\n", "{transcript}");
    let differences = Inventory::collect(machine, &[Section::Files])?.differences(&before);
    let paths = differences.join("\n");
    ensure!(differences.is_empty(), "{} paths differ:\n{paths}\n{transcript}", differences.len());
    machine.sh("systemctl is-active postgresql nginx ssh cron; test -z \"$(dpkg --audit)\"")?;
    let log = machine.sh("cat /var/log/xivo-upgrade.log")?;
    machine.sh("rm -r /etc/systemd/system/cron.service.d; systemctl daemon-reload")?;
    let again = upgrade(&world)?;
    ensure!(matches!(again.exit, 0 | 6) && machine.sh(VERSION)? == "trixie\n", "{transcript}\n{again}");
    let took = |step: &str| {
        let spans = timeline::of(&log, &[]);
        let span = spans.iter().find(|span| span.kind == SpanKind::Step && span.name == step);
        let took = span.and_then(|span| Some(Duration::from_millis(span.end?.checked_sub(span.begin)?)));
        took.with_context(|| format!("the log has nothing about the step {step}:\n{log}"))
    };
    Ok(NextDebianRollback {
        shown: transcript.to_string(),
        saving: took("save rollback data")?,
        rollback: took("roll back")?,
    })
}

/// An upgrade to the next Debian that was rolled back.
#[derive(Debug)]
pub struct NextDebianRollback {
    /// The screen.
    pub shown: String,
    /// How long it took to save rollback data.
    pub saving: Duration,
    /// How long the rollback took, without the restart of services.
    pub rollback: Duration,
}
