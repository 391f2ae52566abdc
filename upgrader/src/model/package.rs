//! Packages as dpkg and apt describe them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a package as apt and dpkg write it: with an architecture, `libc6:i386`, if it is not the machine's own
/// or if the package can be installed for several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PackageName(String);

impl PackageName {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the architecture.
    pub fn bare(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(name, _)| name)
    }

    /// The architecture, if one is written.
    pub fn architecture(&self) -> Option<&str> {
        self.0.split_once(':').map(|(_, architecture)| architecture)
    }

    /// True if this is the name of the package that dpkg knows by this name and architecture, on a machine whose own
    /// architecture is `native` (empty if it is not known).
    pub fn is_of(&self, name: &str, architecture: &str, native: &str) -> bool {
        let is_architecture = match self.architecture() {
            Some(wanted) => architecture == wanted,
            None => architecture == native || architecture == "all" || native.is_empty(),
        };
        self.bare() == name && is_architecture
    }
}

impl<T: Into<String>> From<T> for PackageName {
    fn from(name: T) -> Self {
        Self(name.into())
    }
}

impl PartialEq<str> for PackageName {
    fn eq(&self, other: &str) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The machine's own architecture: that of dpkg. Empty if dpkg is not among its packages.
pub fn native_architecture(packages: &[Package]) -> &str {
    packages.iter().find(|package| package.name == "dpkg").map_or("", |package| &package.architecture)
}

/// A package that dpkg knows of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its architecture.
    pub architecture: String,
    /// Its version; that of the files on disk, also when it is only unpacked.
    pub version: String,
    /// True if the admin holds it.
    pub held: bool,
    /// dpkg's word for its state: `installed`, `half-configured`, `config-files` …
    pub status: String,
    /// True if dpkg was interrupted so badly that it has to be installed again.
    pub needs_reinstallation: bool,
    /// What it takes on disk, in kibibytes.
    pub installed_size: u64,
}

impl Package {
    /// A package that is installed.
    #[cfg(test)]
    pub(crate) fn installed(name: &str, architecture: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            architecture: architecture.to_owned(),
            version: version.to_owned(),
            held: false,
            status: "installed".to_owned(),
            needs_reinstallation: false,
            installed_size: 1,
        }
    }

    /// True if its files are on the machine.
    pub fn is_present(&self) -> bool {
        !matches!(self.status.as_str(), "not-installed" | "config-files") && !self.version.is_empty()
    }
}

/// Packages as the sources have them, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offered(BTreeMap<String, Vec<Offer>>);

/// A package as a source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its architecture, or `all`.
    pub architecture: String,
    /// What it takes on disk once installed, in kibibytes.
    pub installed_size: u64,
    /// The size of its .deb, in bytes.
    pub size: u64,
    /// The SHA-256 sum of its .deb, in hex.
    pub sha256: Option<String>,
}

impl Offered {
    /// These, each with its name.
    pub fn of(offers: impl IntoIterator<Item = (String, Offer)>) -> Self {
        let mut offered = Self::default();
        for (name, offer) in offers {
            offered.0.entry(name).or_default().push(offer);
        }
        offered
    }

    /// The one with this name, on a machine whose own architecture is `native`.
    pub fn find(&self, name: &PackageName, native: &str) -> Option<&Offer> {
        self.0.get(name.bare())?.iter().find(|offer| name.is_of(name.bare(), &offer.architecture, native))
    }
}
