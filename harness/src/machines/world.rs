//! A machine and its repository.

use anyhow::{Context, Result};

use crate::machines::engine::Engine;
use crate::machines::image::{Debian, Image};
use crate::machines::machine::{Command, Machine, Storage, TESTER};
use crate::machines::transcript::Transcript;
use crate::packages::deb::Deb;
use crate::packages::package::Package;
use crate::packages::repository::{Repository, SUITE};
use crate::packages::repository_fault::RepositoryFault;
use crate::packages::server::{Hold, Server};

/// One booted machine and the repository from which it installs. It shares nothing with other worlds, and is removed when dropped.
#[derive(Debug)]
pub struct World {
    /// The machine.
    pub machine: Machine,
    repository: Repository,
    server: Server,
}

/// What differs from run to run, between these texts.
const VARYING: [(&str, &str); 17] = [
    // The process that holds a lock, as the upgrader and apt name it.
    ("(pid ", ")"),
    ("held by process ", " "),
    // The address that answered apt, or did not.
    ("[IP: ", "]"),
    ("repository.test (", ")"),
    // The size of an index depends on its hashes, which do not compress.
    ("unexpected size (", ")"),
    ("by-hash/SHA256/", " "),
    // Where apt puts packages for dpkg.
    ("/tmp/apt-dpkg-install-", "/"),
    // The age of the repository, and the time of the clock.
    ("(invalid since ", ")"),
    ("(invalid for another ", ")"),
    ("(it shows ", ")"),
    // The time of the last upgrade.
    ("was interrupted on ", "."),
    ("the upgrade ended on ", " ("),
    // The time of a dump, and its size, which depends on the release of PostgreSQL.
    ("/dumps/xivo-asterisk-", ".dump"),
    (" is kept as asterisk_", "\n"),
    ("before it is migrated may take ", "\n"),
    // The number of paths, which depends on Debian's own programs.
    ("  ", " paths restored, "),
    (" paths restored, ", " paths of the upgrade removed"),
];

/// Ends of lines that differ between releases of apt, and what replaces them: a refused connection, and a missing key, which gpgv or sqv
/// reports.
const ENDINGS: [(&str, &str); 4] = [
    ("  Could not connect to ", "  (no connection)"),
    ("  Unable to connect to ", "  (no connection)"),
    ("GPG error: ", "(wrong signature)"),
    ("OpenPGP signature verification failed: ", "(wrong signature)"),
];

/// A text whose lines end in the same words with each release of apt.
fn with_common_endings(text: &str) -> String {
    let line = |line: &str| {
        let ending = ENDINGS.iter().find_map(|(words, instead)| Some((line.split_once(words)?, *instead)));
        let Some(((beginning, rest), ending)) = ending else { return line.to_owned() };
        // Each release names the source.
        let source =
            rest.split_once("InRelease:").map_or_else(String::new, |(source, _)| format!(" {source}InRelease"));
        format!("{beginning}{ending}{source}{}", if line.ends_with('\n') { "\n" } else { "" })
    };
    text.split_inclusive('\n').map(line).collect()
}

/// A text with dots instead of what is between these texts on a line.
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
        Self::boot_image(Storage::wanted()?, &engine, &debian.machine())
    }

    /// The same with a machine that was saved before, which has its files there.
    pub fn boot_image(storage: Storage, engine: &Engine, image: &Image) -> Result<Self> {
        let repository = Repository::new()?;
        let server = Server::start(engine.this_host()?)?;
        let machine = Machine::boot(storage, engine, image)?;
        let source = format!(
            "Types: deb\nURIs: http://{TESTER}:{}/\nSuites: {SUITE}\nComponents: main\nSigned-By: /usr/share/keyrings/xivo.pgp\n",
            server.port()
        );
        // A saved machine has these files of a repository that is gone; these replace them.
        machine.write_all(&[
            ("/usr/share/keyrings/xivo.pgp", &repository.public_key()?, 0o644),
            ("/etc/apt/sources.list.d/xivo.sources", source.as_bytes(), 0o644),
        ])?;
        Ok(Self { machine, repository, server })
    }

    /// Publishes packages in the repository, beside those that are there. A fault stays.
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
        self.server.was_injected()
    }

    /// Removes the fault.
    pub fn clear_fault(&self) -> Result<()> {
        self.server.set_fault(None)?;
        self.serve()
    }

    /// Holds back the next package that is requested, except the upgrader's own, until the returned value is dropped.
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

    /// The address of the repository for programs that do not use the machine's /etc/hosts.
    pub fn url(&self) -> Result<String> {
        Ok(format!("http://{}:{}/", Engine::connect()?.this_host()?, self.server.port()))
    }

    /// A text without what differs from world to world: the address of the repository, and what [`VARYING`] names.
    #[must_use]
    pub fn redacted(&self, text: &str) -> String {
        let text = text.replace(&format!("{TESTER}:{}", self.server.port()), TESTER);
        VARYING.iter().fold(with_common_endings(&text), |text, (before, after)| without(&text, before, after))
    }

    /// Transcripts, redacted as with [`World::redacted`], one after the other.
    #[must_use]
    pub fn shown(&self, transcripts: &[&Transcript]) -> String {
        transcripts.iter().map(|transcript| self.redacted(&transcript.to_string())).collect::<Vec<_>>().join("\n")
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
