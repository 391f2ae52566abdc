//! Faults of a repository, as data.

use anyhow::ensure;
use serde::Deserialize;

/// A fault of a repository, as it is written in a scenario:
///
/// ```toml
/// fault = { error = 503 }
/// files = "packages"
/// times = 2
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct RepositoryFault {
    /// Its kind.
    pub fault: ServerFault,
    /// The files that it affects.
    pub files: Affected,
    /// How many requests it affects, the first ones; `None` is all of them.
    pub times: Option<u32>,
}

/// A kind of fault of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerFault {
    /// Requests are answered with this HTTP status, 400 to 599, and nothing else.
    Error(u16),
    /// The headers and a few bytes come, and then nothing more; the connection stays open.
    Stall,
    /// Files come at this many bytes a second, all of them together.
    Slow(u32),
    /// The connection is closed after this many bytes of a file, though its length was announced.
    Cut(usize),
    /// Files have another content of the same length. Those of which no index says the hash (`InRelease`) are as they should be.
    WrongHash,
    /// Files are half as long as they should be, and are announced so; the same ones as with a wrong hash.
    Truncated,
    /// Every answer is a login page with status 200: the captive portal of a network.
    Html,
    /// Nothing listens at the port; connections that are open already stay.
    Unreachable,
    /// The repository was published three days ago, and was valid for one.
    Expired,
    /// The repository was published the day after tomorrow.
    NotYetValid,
    /// There is a `Release` without a signature.
    Unsigned,
    /// The signature is made with a key that no machine has.
    OtherKey,
    /// No index is there by its hash; all are there by name.
    ByHashMissing,
    /// The same, and the indices by name are those of the next version: the mirror is in the middle of a sync.
    HalfSynced,
    /// Once a package other than the upgrader's is requested, a newer version replaces every package, and the indices that were read are
    /// out of date.
    IndexChanges,
}

/// Files of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affected {
    /// What `apt-get update` reads.
    Indices,
    /// The upgrader's own package.
    Upgrader,
    /// All packages but the upgrader's.
    Packages,
    /// All of them.
    #[default]
    All,
}

/// A fault as it is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    fault: ServerFault,
    files: Option<Affected>,
    times: Option<u32>,
}

impl RepositoryFault {
    /// A fault with these files, whenever they are asked for.
    #[must_use]
    pub fn new(fault: ServerFault, files: Affected) -> Self {
        Self { fault, files, times: None }
    }

    /// Only with the first requests.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    /// What is wrong with the answer to a request for this file. Counts the requests that are hit.
    pub(super) fn hit(&mut self, path: &str) -> Option<ServerFault> {
        if !self.files.include(path) || !self.fault.concerns(path) || self.times == Some(0) {
            return None;
        }
        self.times = self.times.map(|times| times - 1);
        Some(self.fault)
    }
}

impl From<ServerFault> for RepositoryFault {
    /// With all files.
    fn from(fault: ServerFault) -> Self {
        Self::new(fault, Affected::All)
    }
}

impl TryFrom<Written> for RepositoryFault {
    type Error = anyhow::Error;

    fn try_from(Written { fault, files, times }: Written) -> Result<Self, Self::Error> {
        if let ServerFault::Error(status) = fault {
            ensure!((400..600).contains(&status), "error = {status}: no status from 400 to 599");
        }
        ensure!(fault != ServerFault::Slow(0), "slow = 0: that would be `stall`");
        ensure!(times != Some(0), "times = 0: then nothing is wrong");
        let whole = fault.is_of_the_whole();
        ensure!(!whole || files.is_none(), "files: this fault is the whole repository's");
        ensure!(!whole || times.is_none(), "times: this fault is not one of single requests");
        Ok(Self { fault, files: files.unwrap_or_default(), times })
    }
}

impl ServerFault {
    /// True if it affects what is published or the port, and not single answers.
    #[must_use]
    pub fn is_of_the_whole(self) -> bool {
        !matches!(
            self,
            Self::Error(_)
                | Self::Stall
                | Self::Slow(_)
                | Self::Cut(_)
                | Self::WrongHash
                | Self::Truncated
                | Self::Html
        )
    }

    /// True if it changes what is answered to a request for this file.
    fn concerns(self, path: &str) -> bool {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        match self {
            Self::WrongHash | Self::Truncated => !["InRelease", "Release", "Release.gpg"].contains(&name),
            fault => !fault.is_of_the_whole(),
        }
    }
}

impl Affected {
    /// True if this file is one of them.
    pub(super) fn include(self, path: &str) -> bool {
        let package = path.strip_prefix("pool/");
        let upgrader =
            package.is_some_and(|file| file.split('_').next().is_some_and(|name| name.ends_with("-upgrade")));
        match self {
            Self::Indices => package.is_none(),
            Self::Upgrader => upgrader,
            Self::Packages => package.is_some() && !upgrader,
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use documented::Page;

    use super::*;
    use crate::data::{expected, keys};

    fn read(text: &str) -> Result<RepositoryFault, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.to_string())
    }

    #[test]
    fn every_fault_is_documented() {
        let page = Page::read("docs/reference/matrix.md");
        let faults = expected::<Written>("fault = \"unknown\"");
        let files = expected::<Written>("files = \"unknown\"");
        page.section("### Kinds of faults").has_keys(faults.clone());
        page.section("### Files").has_keys(files.clone());
        page.section("## Repositories").has_keys([keys::<Written>(), faults, files].into_iter().flatten());
        for example in page.examples("repository") {
            assert_eq!(read(&example.text).err(), None);
        }
    }

    #[test]
    fn faults_are_read_as_they_are_written() {
        assert_eq!(
            read("fault = { error = 503 }\nfiles = \"packages\"\ntimes = 2"),
            Ok(RepositoryFault::new(ServerFault::Error(503), Affected::Packages).times(2))
        );
        assert_eq!(read("fault = \"half-synced\""), Ok(ServerFault::HalfSynced.into()));
        assert_eq!(read("fault = { cut = 0 }"), Ok(ServerFault::Cut(0).into()));
    }

    #[test]
    fn what_is_wrong_with_a_fault_is_said_with_its_key() {
        for (text, said) in [
            ("fault = \"stal\"", "unknown variant `stal`"),
            ("fault = { error = 200 }", "error = 200: no status"),
            ("fault = { slow = 0 }", "slow = 0"),
            ("fault = \"stall\"\nfile = \"all\"", "unknown field `file`"),
            ("fault = \"stall\"\nfiles = \"some\"", "unknown variant `some`"),
            ("fault = \"stall\"\ntimes = 0", "times = 0"),
            ("fault = \"expired\"\nfiles = \"all\"", "files: this fault is the whole repository's"),
            ("fault = \"unreachable\"\ntimes = 1", "times: this fault is not one of single requests"),
            ("times = 1", "missing field `fault`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn every_file_belongs_to_one_group_and_to_all() {
        let one = [Affected::Indices, Affected::Upgrader, Affected::Packages];
        for (path, group) in [
            ("dists/stable/InRelease", Affected::Indices),
            ("pool/acme-upgrade_1_amd64.deb", Affected::Upgrader),
            ("pool/xivo-upgrade-doc_1_all.deb", Affected::Packages),
            ("pool/xivo_1_all.deb", Affected::Packages),
        ] {
            let groups: Vec<_> = one.into_iter().filter(|files| files.include(path)).collect();
            assert_eq!(groups, [group], "{path}");
            assert!(Affected::All.include(path));
        }
    }
}
