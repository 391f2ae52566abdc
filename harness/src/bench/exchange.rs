//! Upgrades an exchange repeatedly.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::RngCore as _;

use crate::machines::image::Debian;
use crate::machines::machine::{Command, Storage};
use crate::machines::product_machine;
use crate::machines::world::World;
use crate::observe::inventory::SystemState;
use crate::observe::timeline::{Events, Mark};
use crate::packages::release::Release;
use crate::packages::shipped::{SERVICES, XIVO};

/// An exchange that is upgraded over and over, so that what is compared happens in the same container: 1.2.1, 1.2.2, 1.2.3 …,
/// each like 1.2.2.
pub(super) struct Exchange {
    pub(super) world: World,
    patch: u32,
}

impl Exchange {
    /// One at 1.2.2, with what a first upgrade does only once behind it. Its services have no settling time.
    pub(super) fn new(debian: Debian, disk: Storage) -> Result<Self> {
        let upgrader = product_machine::for_synthetic_services(XIVO.upgrader()?)?;
        let mut exchange =
            Self { world: product_machine::at_release_on(disk, &XIVO, debian, "1.2.1", &upgrader)?, patch: 1 };
        exchange.publish_next(0)?;
        exchange.upgrade()?;
        Ok(exchange)
    }

    /// Publishes the next release, with this many bytes that cannot be compressed.
    pub(super) fn publish_next(&mut self, ballast: usize) -> Result<()> {
        self.patch += 1;
        let mut release = Release::like("1.2.2", &self.version())?;
        let mut noise = vec![0; ballast];
        rand::thread_rng().fill_bytes(&mut noise);
        let sounds = release.package_mut("xivo-sounds")?;
        *sounds = std::mem::take(sounds).file("/usr/share/xivo-sounds/music.raw", noise, 0o644);
        self.forget_starts()?;
        self.world.machine.sh("apt-get clean")?;
        self.world.publish(&release.packages)
    }

    /// systemd refuses a service that is started five times in ten seconds, and here one may be.
    fn forget_starts(&self) -> Result<()> {
        self.world.machine.sh(&format!("systemctl reset-failed {}", SERVICES.join(" "))).map(drop)
    }

    fn version(&self) -> String {
        format!("1.2.{}", self.patch)
    }

    /// Upgrades with the upgrader, and says how long that took.
    pub(super) fn upgrade(&mut self) -> Result<Duration> {
        self.timed(self.world.upgrade(&["--yes"]))
    }

    /// Upgrades with the bare commands, and says how long that took.
    pub(super) fn bare_upgrade(&mut self) -> Result<Duration> {
        let script = format!(
            "export DEBIAN_FRONTEND=noninteractive; apt-get update && apt-get -y dist-upgrade && systemctl restart {}",
            SERVICES.join(" ")
        );
        self.timed(self.world.machine.command(&["sh", "-c", &script]))
    }

    /// Upgrades the packages with the bare commands while services are held back, as the upgrader does.
    pub(super) fn bare_upgrade_of_packages(&self) -> Result<()> {
        let policy = "/usr/sbin/policy-rc.d";
        let script = format!(
            "export DEBIAN_FRONTEND=noninteractive; printf '#!/bin/sh\\nexit 101\\n' >{policy}; chmod +x {policy}
            apt-get -q update; apt-get -qy dist-upgrade; rm {policy}"
        );
        self.world.machine.sh(&script).map(drop)
    }

    /// Restarts the services in their order with the bare command, and changes nothing.
    pub(super) fn bare_restart(&self) -> Result<()> {
        let services = SERVICES.join(" ");
        self.world.machine.sh(&format!("for service in {services}; do systemctl restart $service; done")).map(drop)
    }

    /// Does something, and says how long all services together were away meanwhile.
    pub(super) fn outage(&mut self, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<Duration> {
        self.forget_starts()?;
        let mark = Mark::set(&self.world.machine)?;
        act(self)?;
        let happened = Events::since(&mark, &self.world.machine, &SERVICES)?;
        let away: Option<Vec<Duration>> = happened.outages.values().copied().collect();
        let away = away.with_context(|| format!("a service is still away: {happened}"))?;
        ensure!(away.len() == SERVICES.len(), "not every service was restarted: {happened}");
        Ok(away.iter().sum())
    }

    /// Runs the command of an upgrade, checks what it did, and says how long it took.
    fn timed(&self, upgrade: Command<'_>) -> Result<Duration> {
        let start = Instant::now();
        let transcript = upgrade.exits(0)?;
        let took = start.elapsed();
        let state = SystemState::of(&self.world.machine, &SERVICES)?;
        let version = self.version();
        ensure!(state.packages["xivo"] == version, "{transcript}");
        ensure!(state.services.values().all(|service| service.version == version), "{state:?}");
        Ok(took)
    }
}
