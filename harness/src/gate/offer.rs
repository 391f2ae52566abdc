//! The repositories that machines of the gate install from.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::machines::image::Debian;
use crate::machines::machine::Machine;
use crate::packages::deb::Deb;

/// Where packages come from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// An apt repository, as it is.
    Url(String),
    /// The .debs of a directory, which a repository of ours publishes.
    Directory(PathBuf, Vec<Deb>),
}

impl Origin {
    /// Reads it as it is written on the command line, and the .debs of a directory.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Url(text.to_owned()));
        }
        let path = Path::new(text);
        if !path.is_dir() {
            return Err("there is no such directory, and a URL begins with http:// or https://".to_owned());
        }
        let debs = Deb::all_in(path).map_err(|error| format!("{error:#}"))?;
        Ok(Self::Directory(path.to_owned(), debs))
    }

    /// The packages that a repository of ours publishes for it.
    pub(super) fn debs(&self) -> &[Deb] {
        match self {
            Self::Url(_) => &[],
            Self::Directory(_, debs) => debs,
        }
    }
}

/// As it is written on the command line, but without a user and a password: reports show it.
impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => f.write_str(&without_password(url)),
            Self::Directory(path, _) => write!(f, "{}", path.display()),
        }
    }
}

/// A URL with placeholders for user and password.
fn without_password(url: &str) -> String {
    let secret = url.split_once("://").and_then(|(scheme, rest)| {
        let end = rest.find('/').unwrap_or(rest.len());
        Some((scheme, &rest[rest[..end].rfind('@')?..]))
    });
    secret.map_or_else(|| url.to_owned(), |(scheme, rest)| format!("{scheme}://USER:PASSWORD{rest}"))
}

/// A repository that a machine installs from.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    /// Where it is.
    pub(super) origin: &'a Origin,
    /// Its suite; `{debian}` stands for the name of the machine's Debian.
    pub(super) suite: &'a str,
    /// Its components.
    pub(super) components: &'a [String],
    /// The file with its public key; `None` if Debian's own keys are enough.
    pub(super) key: Option<&'a Path>,
}

/// Where the source of a machine is written, and its key.
const SOURCE: &str = "/etc/apt/sources.list.d/gate.sources";
const KEY: &str = "/usr/share/keyrings/gate";

impl Offer<'_> {
    /// Makes a repository somewhere else a source of a machine, in place of the one before. (That of a directory is one already.)
    pub(super) fn add_to(&self, machine: &Machine, debian: Debian) -> Result<()> {
        machine.sh(&format!("rm -f {SOURCE} {KEY}.*"))?;
        let Origin::Url(url) = self.origin else { return Ok(()) };
        if url.starts_with("https:") {
            machine.install_from_debian(&["ca-certificates"])?;
        }
        let suite = self.suite.replace("{debian}", &debian.to_string());
        let mut source = vec![format!("Types: deb\nURIs: {url}\nSuites: {suite}")];
        // A suite that is a path has no components (sources.list(5)).
        if !suite.ends_with('/') {
            source.push(format!("Components: {}", self.components.join(" ")));
        }
        if let Some(key) = self.key {
            let key = std::fs::read(key).with_context(|| key.display().to_string())?;
            // apt tells the two forms apart by the ending.
            let path = format!("{KEY}.{}", if key.starts_with(b"-----BEGIN PGP") { "asc" } else { "pgp" });
            machine.write(&path, &key, 0o644)?;
            source.push(format!("Signed-By: {path}"));
        }
        machine.write(SOURCE, (source.join("\n") + "\n").as_bytes(), 0o644)
    }
}

/// Finds the wanted version of a package: the same, or the newest that begins with it (`1.2.1` is `1:1.2.1-3`, but not `1.2.10`). `None` means
/// the newest. The versions are in apt's order, newest first. The error lists them.
pub(super) fn version<'a>(package: &str, wanted: Option<&str>, versions: &'a [String]) -> Result<&'a str> {
    let begins = |version: &&String| {
        let upstream = version.split_once(':').map_or(version.as_str(), |(_, rest)| rest);
        let rest = |wanted: &str| upstream.strip_prefix(wanted).or_else(|| version.strip_prefix(wanted));
        wanted
            .is_none_or(|wanted| rest(wanted).is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit())))
    };
    ensure!(!versions.is_empty(), "the old repository has no package {package}");
    let exact = versions.iter().find(|version| Some(version.as_str()) == wanted);
    exact.or_else(|| versions.iter().find(begins)).map(String::as_str).with_context(|| {
        format!("the old repository has no {package} {}; it has {}", wanted.unwrap_or_default(), versions.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_no_password() {
        assert_eq!(without_password("https://bob:s@e@repo.example/x@y"), "https://USER:PASSWORD@repo.example/x@y");
        assert_eq!(without_password("http://repo.example"), "http://repo.example");
        assert_eq!(without_password("http://repo.example/~bob@x"), "http://repo.example/~bob@x");
    }

    #[test]
    fn a_version_is_the_one_that_a_person_means() {
        let versions = ["1:1.2.10-1", "1:1.2.1-3", "1:1.2.1-2"].map(str::to_owned);
        let found = |wanted| version("a", wanted, &versions).map_err(|error| error.to_string());
        assert_eq!(found(Some("1.2.1")), Ok("1:1.2.1-3"));
        assert_eq!(found(Some("1:1.2.1")), Ok("1:1.2.1-3"));
        assert_eq!(found(Some("1:1.2.1-2")), Ok("1:1.2.1-2"));
        assert_eq!(found(None), Ok("1:1.2.10-1"));
        let error = "the old repository has no a 1.3; it has 1:1.2.10-1, 1:1.2.1-3, 1:1.2.1-2";
        assert_eq!(found(Some("1.3")), Err(error.to_owned()));
    }

    #[test]
    fn what_is_neither_a_repository_nor_a_directory_is_refused() {
        assert!(Origin::parse("/nowhere").unwrap_err().contains("there is no such directory"));
        let empty = tempfile::tempdir().unwrap();
        assert!(Origin::parse(empty.path().to_str().unwrap()).unwrap_err().contains("there is no .deb"));
        assert!(matches!(Origin::parse("http://deb.debian.org/debian"), Ok(Origin::Url(_))));
    }
}
