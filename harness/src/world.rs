use anyhow::{Context, Result};

use crate::deb::Deb;
use crate::engine::Engine;
use crate::image::{Debian, Image};
use crate::machine::{Command, Machine, TESTER};
use crate::package::Package;
use crate::repository::{Repository, SUITE};
use crate::server::fault::RepositoryFault;
use crate::server::{Hold, Server};

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

    /// Publishes packages in the repository, beside those that are there. What is wrong with it stays so.
    pub fn publish<'a>(&mut self, packages: impl IntoIterator<Item = &'a Package>) -> Result<()> {
        self.repository.add(packages)?;
        self.serve()
    }

    /// Publishes packages that were built elsewhere, in place of all such packages that were published before.
    pub fn publish_built(&mut self, debs: &[Deb]) -> Result<()> {
        self.repository.take(debs)?;
        self.serve()
    }

    /// From now on this is wrong with the repository, and nothing else.
    pub fn misbehave(&self, fault: impl Into<RepositoryFault>) -> Result<()> {
        self.server.misbehave(Some(fault.into()))?;
        self.serve()
    }

    /// From now on nothing is wrong with the repository.
    pub fn behave(&self) -> Result<()> {
        self.server.misbehave(None)?;
        self.serve()
    }

    /// Holds back the next package that is asked for (the upgrader's own aside), until what this gives is dropped.
    #[must_use]
    pub fn hold_packages(&self) -> Hold {
        self.server.hold()
    }

    fn serve(&self) -> Result<()> {
        self.server.serve(self.repository.publish(self.server.fault())?);
        Ok(())
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
