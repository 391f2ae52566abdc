use anyhow::{Context, Result};
use jiff::SignedDuration;

use crate::engine::Engine;
use crate::image::{Debian, Image};
use crate::machine::{Command, Machine, TESTER};
use crate::package::Package;
use crate::repository::{Repository, SUITE};
use crate::server::Server;

/// One booted machine and the repository that it installs from. It shares nothing with any other world, and it is gone
/// when dropped, whatever happened.
#[derive(Debug)]
pub struct World {
    /// The machine.
    pub machine: Machine,
    repository: Repository,
    server: Server,
}

impl World {
    /// Boots a machine whose only package source is an empty repository of its own.
    pub fn boot(debian: Debian) -> Result<Self> {
        let engine = Engine::connect()?;
        engine.sweep().context("what an earlier run left could not be removed")?;
        Self::boot_image(&engine, &debian.machine())
    }

    /// The same with a machine that was saved before.
    pub fn boot_image(engine: &Engine, image: &Image) -> Result<Self> {
        let repository = Repository::new()?;
        let server = Server::start(engine.this_host()?)?;
        let machine = Machine::boot(engine, image)?;
        let source = format!(
            "Types: deb\nURIs: http://{TESTER}:{}/\nSuites: {SUITE}\nComponents: main\nSigned-By: /usr/share/keyrings/xivo.pgp\n",
            server.port()
        );
        // Where these lie in a machine that was saved, so that they replace what is there: that repository is gone.
        machine.write("/usr/share/keyrings/xivo.pgp", &repository.public_key()?, 0o644)?;
        machine.write("/etc/apt/sources.list.d/xivo.sources", source.as_bytes(), 0o644)?;
        Ok(Self { machine, repository, server })
    }

    /// Publishes packages in the repository, beside those that are there.
    pub fn publish<'a>(&mut self, packages: impl IntoIterator<Item = &'a Package>) -> Result<()> {
        for package in packages {
            self.repository.add(package)?;
        }
        self.server.serve(self.repository.publish()?);
        Ok(())
    }

    /// Publishes what is there as if that had happened this long ago; in the future if that is negative. apt refuses what comes
    /// from the future and what is older than a day.
    pub fn publish_dated(&mut self, age: SignedDuration) -> Result<()> {
        self.repository.set_age(age);
        self.publish([])
    }

    /// Serves the indices of the repository from now on, but none of its packages.
    pub fn withdraw_packages(&self) -> Result<()> {
        let mut files = self.repository.publish()?;
        files.retain(|path, _| !path.starts_with("pool/"));
        self.server.serve(files);
        Ok(())
    }

    /// Serves packages at this many bytes a second from now on, all of them together; as quickly as can be with `None`. Indices
    /// are not slowed down.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        self.server.throttle(bytes_per_second);
    }

    /// Installs packages as an admin would.
    pub fn install(&self, packages: &[&str]) -> Result<()> {
        let packages = packages.join(" ");
        self.machine.sh(&format!(
            "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install {packages} 2>&1"
        ))?;
        Ok(())
    }

    /// A text without what differs from world to world: the port of the repository.
    #[must_use]
    pub fn redacted(&self, text: &str) -> String {
        text.replace(&format!("{TESTER}:{}", self.server.port()), TESTER)
    }

    /// The upgrader, about to run with these arguments.
    #[must_use]
    pub fn upgrade<'a>(&'a self, arguments: &[&str]) -> Command<'a> {
        let command: Vec<&str> = std::iter::once("xivo-upgrade").chain(arguments.iter().copied()).collect();
        self.machine.command(&command)
    }
}
