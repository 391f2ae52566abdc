//! A machine and its repository.

use anyhow::{Context, Result};

use crate::machines::engine::Engine;
use crate::machines::image::{Debian, Image};
use crate::machines::machine::{Command, Machine, Storage, TESTER};
use crate::packages::deb::Deb;
use crate::packages::package::Package;
use crate::packages::repository::{Repository, SUITE};
use crate::packages::repository_fault::RepositoryFault;
use crate::packages::server::{Hold, Server};

/// One booted machine and the repository that it installs from. It shares nothing with any other world, and it is gone
/// when dropped, whatever happened.
#[derive(Debug)]
pub struct World {
    /// The machine.
    pub machine: Machine,
    repository: Repository,
    server: Server,
}

/// What is never the same twice lies between these.
const VARYING: [(&str, &str); 17] = [
    // Who holds a lock, as the upgrader names it, and as apt does.
    ("(pid ", ")"),
    ("held by process ", " "),
    // Where apt got an answer from, or none.
    ("[IP: ", "]"),
    ("repository.test (", ")"),
    // An index has hashes in it, and hashes do not compress.
    ("unexpected size (", ")"),
    ("by-hash/SHA256/", " "),
    // Where apt puts packages for dpkg.
    ("/tmp/apt-dpkg-install-", "/"),
    // How long ago or ahead the repository's day is, and what the clock shows.
    ("(invalid since ", ")"),
    ("(invalid for another ", ")"),
    ("(it shows ", ")"),
    // When an upgrade was there last.
    ("was interrupted on ", "."),
    ("the upgrade ended on ", " ("),
    // When a database was saved, and how big it is: each PostgreSQL has its own size.
    ("/dumps/xivo-asterisk-", ".dump"),
    (" is kept as asterisk_", "\n"),
    ("before it is migrated may take ", "\n"),
    // How many paths Debian's own programs have changed beside the packages'.
    ("  ", " paths restored, "),
    (" paths restored, ", " paths of the upgrade removed"),
];

/// How a line ends that one apt ends in other words than the next, and what stands there instead: that a connection was refused, and that
/// a key is missing, of which gpgv and sqv have to tell.
const ENDINGS: [(&str, &str); 4] = [
    ("  Could not connect to ", "  (no connection)"),
    ("  Unable to connect to ", "  (no connection)"),
    ("GPG error: ", "(wrong signature)"),
    ("OpenPGP signature verification failed: ", "(wrong signature)"),
];

/// A text in which lines end in the same words whatever apt says.
fn with_common_endings(text: &str) -> String {
    let line = |line: &str| {
        let ending = ENDINGS.iter().find_map(|(words, instead)| Some((line.split_once(words)?, *instead)));
        let Some(((beginning, rest), ending)) = ending else { return line.to_owned() };
        // Which source it is, all say.
        let source =
            rest.split_once("InRelease:").map_or_else(String::new, |(source, _)| format!(" {source}InRelease"));
        format!("{beginning}{ending}{source}{}", if line.ends_with('\n') { "\n" } else { "" })
    };
    text.split_inclusive('\n').map(line).collect()
}

/// A text with dots instead of what lies between these, wherever they are on a line.
fn without(text: &str, before: &str, after: &str) -> String {
    let mut pieces = text.split(before);
    let mut redacted = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        redacted.push_str(before);
        let rest = piece.find(after).filter(|end| !piece[..*end].contains('\n')).map(|end| &piece[end..]);
        redacted.push_str(&rest.map_or_else(|| piece.to_owned(), |rest| format!("…{rest}")));
    }
    redacted
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
        Self::boot_image_on(Storage::default(), engine, image)
    }

    /// The same with the machine's files there.
    pub fn boot_image_on(disk: Storage, engine: &Engine, image: &Image) -> Result<Self> {
        let repository = Repository::new()?;
        let server = Server::start(engine.this_host()?)?;
        let machine = Machine::boot_on(disk, engine, image)?;
        let source = format!(
            "Types: deb\nURIs: http://{TESTER}:{}/\nSuites: {SUITE}\nComponents: main\nSigned-By: /usr/share/keyrings/xivo.pgp\n",
            server.port()
        );
        // Where these lie in a machine that was saved, so that they replace what is there: that repository is gone.
        machine.write_all(&[
            ("/usr/share/keyrings/xivo.pgp", &repository.public_key()?, 0o644),
            ("/etc/apt/sources.list.d/xivo.sources", source.as_bytes(), 0o644),
        ])?;
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

    /// Injects a fault into the repository, in place of an earlier one.
    pub fn inject(&self, fault: impl Into<RepositoryFault>) -> Result<()> {
        self.server.set_fault(Some(fault.into()))?;
        self.serve()
    }

    /// True if a request was answered with the fault.
    #[must_use]
    pub fn fault_was_injected(&self) -> bool {
        self.server.has_struck()
    }

    /// Removes the fault.
    pub fn clear_fault(&self) -> Result<()> {
        self.server.set_fault(None)?;
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

    /// The address of the repository, for those who do not know the machine's names.
    pub fn url(&self) -> Result<String> {
        Ok(format!("http://{}:{}/", Engine::connect()?.this_host()?, self.server.port()))
    }

    /// A text without what differs from world to world: the address of the repository, and what [`VARYING`] names.
    #[must_use]
    pub fn redacted(&self, text: &str) -> String {
        let text = text.replace(&format!("{TESTER}:{}", self.server.port()), TESTER);
        VARYING.iter().fold(with_common_endings(&text), |text, (before, after)| without(&text, before, after))
    }

    /// The upgrader, about to run with these arguments.
    #[must_use]
    pub fn upgrade<'a>(&'a self, arguments: &[&str]) -> Command<'a> {
        let command: Vec<&str> = std::iter::once("xivo-upgrade").chain(arguments.iter().copied()).collect();
        self.machine.command(&command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_is_left_out_wherever_it_is_on_a_line() {
        let text = "a (pid 1) and b (pid 22)\nc (pid 3\n)";
        assert_eq!(without(text, "(pid ", ")"), "a (pid …) and b (pid …)\nc (pid 3\n)");
        let text = "x\nerror: GPG error: http://a b InRelease: key 12\nend";
        assert_eq!(with_common_endings(text), "x\nerror: (wrong signature) http://a b InRelease\nend");
    }
}
