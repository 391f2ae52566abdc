//! The gate's command line.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::offer::{Offer, Origin};
use crate::data;
use crate::machines::image::Debian;
use crate::matrix::state::{FRESH, State};
use crate::packages::shipped::vendor::{Described, package_name};

/// The directories that hooks are in.
const PHASES: [&str; 2] = ["pre-upgrade.d", "post-upgrade.d"];

/// What `--from` calls the version that the old repository offers.
pub(super) const OFFERED: &str = "installed";

/// What is upgraded to what.
#[derive(Debug, Args)]
pub struct GateOptions {
    /// The candidate: the URL of an apt repository, or a directory with .debs in it
    #[arg(long, value_name = "URL|DIRECTORY", value_parser = Origin::parse)]
    pub(super) candidate: Origin,
    /// Its suite; `{debian}` is the name of the machine's Debian. A directory has none
    #[arg(long, default_value = "{debian}")]
    pub(super) suite: String,
    /// Its components
    #[arg(long, default_value = "main", value_delimiter = ',')]
    pub(super) component: Vec<String>,
    /// Its public key; without one those of Debian count
    #[arg(long, value_name = "FILE", value_parser = file)]
    pub(super) key: Option<PathBuf>,
    /// The old versions, as the version package has them; `installed` is the one that the old repository offers
    #[arg(long, value_name = "VERSION", value_delimiter = ',', default_value = OFFERED, required_unless_present = "from_repo")]
    pub(super) from: Vec<String>,
    /// Where the old versions are, if not in the candidate's repository: URL or directory
    #[arg(long, value_name = "URL|DIRECTORY", value_parser = Origin::parse)]
    pub(super) from_repo: Option<Origin>,
    /// The suite of that repository
    #[arg(long, value_name = "SUITE", default_value = "{debian}", requires = "from_repo")]
    pub(super) from_suite: String,
    /// Its public key
    #[arg(long, value_name = "FILE", value_parser = file, requires = "from_repo")]
    pub(super) from_key: Option<PathBuf>,
    /// The releases of Debian
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bookworm")]
    pub(super) on: Vec<Debian>,
    /// The product: its product.toml, or the directory that `harness deb --product` takes
    #[arg(long, value_name = "FILE|DIRECTORY", value_parser = Described::parse)]
    pub(super) product: Described,
    /// The NAME of `NAME-upgrade`, if it is not the product's name in small letters
    #[arg(long, value_parser = package_name)]
    pub(super) name: Option<String>,
    /// The directory of the product's hooks (pre-upgrade.d and post-upgrade.d), if it is not the one of the product
    #[arg(long, value_name = "DIRECTORY", value_parser = hooks)]
    pub(super) hooks: Option<PathBuf>,
    /// What is installed, and brings all else with it, if not the version package alone
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    pub(super) metapackage: Vec<String>,
    /// Let machines install from Debian's own repositories as well
    #[arg(long)]
    pub(super) debian_sources: bool,
    /// Also upgrade machines in this state: files as those in harness/states/
    #[arg(long, value_name = "FILE", value_parser = NamedState::parse)]
    pub(super) state: Vec<NamedState>,
    /// What may differ from a machine on which the candidate was installed: the beginning of a line that says so. It has to differ; after
    /// `bookworm:`, on machines with that Debian
    #[arg(long, value_name = "[DEBIAN:]BEGINNING")]
    pub(super) differs: Vec<String>,
    /// If every upgrade passes, write the set of packages that did: a file for each Debian, for the directory `validated` beside product.toml
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) write_manifest: Option<PathBuf>,
    /// Run the packages in ordinary containers, where root of a machine can become root of this host: for packages that you trust as you trust
    /// root, or on a host to throw away
    #[arg(long)]
    pub(super) trusted: bool,
    /// Where reports and logs go
    #[arg(long, value_name = "DIRECTORY", default_value = "target/gate")]
    pub(super) output: PathBuf,
}

/// What is wrong with a command line as a whole: nothing was tried.
#[derive(Debug)]
pub struct WrongCommandLine(String);

impl fmt::Display for WrongCommandLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for WrongCommandLine {}

/// A state, and what it is called.
#[derive(Debug, Clone)]
pub(super) struct NamedState {
    pub(super) name: String,
    pub(super) path: Option<PathBuf>,
    pub(super) state: State,
}

impl NamedState {
    fn parse(text: &str) -> Result<Self, String> {
        let path = Path::new(text);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let state: State = data::read(path).map_err(|error| format!("{error:#}"))?;
        if state.old_upgrader || state.repository.is_some() || !state.fix.is_empty() || state.again.is_some() {
            return Err("old-upgrader, repository, fix and again are not for the gate".to_owned());
        }
        Ok(Self { name, path: Some(path.to_owned()), state })
    }

    fn fresh() -> Self {
        Self { name: FRESH.to_owned(), path: None, state: State::default() }
    }
}

fn file(text: &str) -> Result<PathBuf, String> {
    existing(text, Path::is_file, "there is no such file")
}

/// A directory with hooks; one without any is a mistake.
fn hooks(text: &str) -> Result<PathBuf, String> {
    let directory = existing(text, Path::is_dir, "there is no such directory")?;
    let has_hooks = PHASES.iter().any(|phase| directory.join(phase).is_dir());
    has_hooks.then_some(directory).ok_or_else(|| format!("it has no {}", PHASES.join(" and no ")))
}

/// An absolute path to something that is there.
fn existing(text: &str, is_there: fn(&Path) -> bool, otherwise: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !is_there(path) {
        return Err(otherwise.to_owned());
    }
    path.canonicalize().map_err(|error| error.to_string())
}

impl GateOptions {
    pub(super) fn candidate(&self) -> Offer<'_> {
        let Self { candidate, suite, component, key, .. } = self;
        Offer { origin: candidate, suite, components: component, key: key.as_deref() }
    }

    pub(super) fn old(&self) -> Offer<'_> {
        let Some(origin) = &self.from_repo else { return self.candidate() };
        Offer { origin, suite: &self.from_suite, components: &self.component, key: self.from_key.as_deref() }
    }

    pub(super) fn services(&self) -> Vec<&str> {
        self.product.definition.services.order.iter().map(String::as_str).collect()
    }

    /// What may differ on a release of Debian.
    pub(super) fn differs(&self, debian: Debian) -> Vec<String> {
        let here = |beginning: &String| match beginning.split_once(':') {
            Some((name, rest)) if Debian::ALL.iter().any(|one| one.to_string() == name) => {
                (name == debian.to_string()).then(|| rest.trim_start().to_owned())
            }
            _ => Some(beginning.clone()),
        };
        self.differs.iter().filter_map(here).collect()
    }

    /// The states: a machine as it was installed, and those that are named.
    pub(super) fn states(&self) -> Vec<NamedState> {
        std::iter::once(NamedState::fresh()).chain(self.state.iter().cloned()).collect()
    }

    /// Two upgrades of the same name would overwrite each other's records.
    pub(super) fn ensure_each_once(&self) -> Result<(), WrongCommandLine> {
        let lists: [(_, Vec<String>); 3] = [
            ("from", self.from.clone()),
            ("on", self.on.iter().map(ToString::to_string).collect()),
            ("state", self.states().into_iter().map(|state| state.name).collect()),
        ];
        match lists.iter().find_map(|(option, names)| Some((option, data::repeated(names)?))) {
            Some((option, name)) => Err(WrongCommandLine(format!("--{option}: {name} is there twice"))),
            None => Ok(()),
        }
    }

    /// The command that does one upgrade of this again.
    pub(super) fn again(&self, from: &str, debian: Debian, state: &NamedState) -> String {
        let path = |path: &PathBuf| path.display().to_string();
        let mut words = vec!["harness".to_owned(), "gate".to_owned()];
        let mut option = |name: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [format!("--{name}"), value]));
        };
        option("candidate", Some(self.candidate.to_string()));
        option("suite", Some(self.suite.clone()));
        option("component", Some(self.component.join(",")));
        option("key", self.key.as_ref().map(path));
        option("from", Some(from.to_owned()));
        if let Some(origin) = &self.from_repo {
            option("from-repo", Some(origin.to_string()));
            option("from-suite", Some(self.from_suite.clone()));
            option("from-key", self.from_key.as_ref().map(path));
        }
        option("on", Some(debian.to_string()));
        option("product", Some(path(self.product.beside.as_ref().unwrap_or(&self.product.path))));
        option("name", self.name.clone());
        option("hooks", self.hooks.as_ref().map(path));
        option("metapackage", (!self.metapackage.is_empty()).then(|| self.metapackage.join(",")));
        option("state", state.path.as_ref().map(path));
        for beginning in &self.differs {
            option("differs", Some(beginning.clone()));
        }
        if self.debian_sources {
            words.push("--debian-sources".to_owned());
        }
        if self.trusted {
            words.push("--trusted".to_owned());
        }
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
    }
}
