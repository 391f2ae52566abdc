//! Machines with a real database and web server, and a realistic provd and asterisk.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::data::tree;
use crate::machines::database;
use crate::machines::image::Debian;
use crate::machines::machine::{Machine, Storage};
use crate::machines::product_machine;
use crate::machines::transcript::Transcript;
use crate::machines::world::World;
use crate::packages::package::Package;
use crate::packages::release::Release;
use crate::packages::shipped::{XIVO, definition};

/// The data and the faults of the stand-in of provd, `products/exchange/provd.py`.
pub const PROVD: &str = "/var/lib/xivo-provd";

/// The hooks that the package ships, in the order in which they run.
pub const HOOKS: [&str; 3] = ["10-device-template", "20-backup-proxy", "30-web-language"];

/// A machine at 1.2.1 with PostgreSQL and nginx of Debian, and stand-ins of provd and asterisk that behave like the real ones:
/// the first and the last service of the order are real. It has today's upgrader exactly as it is shipped, but for its
/// product.toml, and 1.2.2 is published for it.
pub fn upgradable(debian: Debian) -> Result<World> {
    let prepare = format!("{}\nsystemctl stop nginx", database::PREPARE);
    let mut world = product_machine::with_debian_packages(
        Storage::wanted()?,
        debian,
        "exchange",
        &["python3", "postgresql", "nginx"],
        &prepare,
    )?;
    let upgrader = upgrader()?;
    world.publish(release("1.2.1")?.packages.iter().chain([&upgrader]))?;
    world.install(&["xivo", &upgrader.name])?;
    world.publish(&release("1.2.2")?.packages)?;
    world.machine.sh(database::UP)?;
    Ok(world)
}

/// One of the releases of such machines: `products/exchange/1.2.1.toml`.
pub fn release(version: &str) -> Result<Release> {
    Release::read(&tree(&format!("harness/products/exchange/{version}.toml")))
}

/// The upgrader as it is shipped, for a product with a database, and without a settling time.
fn upgrader() -> Result<Package> {
    definition::edited(XIVO.upgrader()?, |product| {
        definition::set_services(product, "settle", Some("0s"));
        database::describe(product)
    })
}

/// Gives an exchange this many devices, makes it the master of a pair and then a node of none, each twice, and has the hook set and take
/// away the backup proxy of each. Says how long each turn took.
pub fn change_devices(machine: &Machine, devices: usize) -> Result<[Duration; 4]> {
    machine
        .sh(&format!("systemctl stop xivo-provd && xivo-wizard --devices {devices} && systemctl start xivo-provd"))?;
    let all = devices + 1;
    let turns =
        [("master", "192.0.2.20", all), ("master", "192.0.2.20", 0), ("disabled", "", all), ("disabled", "", 0)];
    let mut took = [Duration::ZERO; 4];
    for ((role, address, written), took) in turns.into_iter().zip(&mut took) {
        let pair = format!(r#"{{"node_type": "{role}", "remote_address": "{address}"}}"#);
        machine.write("/etc/xivo/ha.conf", pair.as_bytes(), 0o644)?;
        let started = Instant::now();
        let transcript = run_hook(machine, HOOKS[1])?;
        *took = started.elapsed();
        ensure!(transcript.exit == 0, "{transcript}");
        let puts = machine.sh(&format!("grep -c ^PUT {PROVD}/requests.log || :; rm {PROVD}/requests.log"))?;
        ensure!(puts.trim() == written.to_string(), "{puts} were written instead of {written}: {transcript}");
    }
    Ok(took)
}

/// Runs one of [`HOOKS`] alone, as the remedy on the screen says.
pub fn run_hook(machine: &Machine, hook: &str) -> Result<Transcript> {
    machine.command(&[&format!("/usr/share/xivo-upgrade/post-upgrade.d/{hook}")]).run()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::shipped::SERVICES;

    #[test]
    fn its_releases_are_good_and_have_every_service_that_is_not_debians() {
        for version in ["1.2.1", "1.2.2"] {
            let release = release(version).unwrap();
            assert_eq!(release.version, version);
            for package in &release.packages {
                crate::packages::deb::build(package).unwrap();
            }
            for service in SERVICES.iter().filter(|service| !["postgresql", "nginx"].contains(service)) {
                assert!(release.packages.iter().any(|package| package.name == *service), "{service}");
            }
        }
    }
}
