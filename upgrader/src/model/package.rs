//! Packages as dpkg and apt describe them.

use std::collections::BTreeMap;

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
    /// True if its files are on the machine.
    #[must_use]
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

    /// The one with this name that can be installed as one of this architecture.
    #[must_use]
    pub fn find(&self, name: &str, architecture: &str) -> Option<&Offer> {
        self.0.get(name)?.iter().find(|offer| offer.architecture == architecture || offer.architecture == "all")
    }

    /// What the packages with this name take on disk, in kibibytes: of several architectures, the first.
    #[must_use]
    pub fn installed_size(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.first().map(|offer| offer.installed_size)
    }
}
