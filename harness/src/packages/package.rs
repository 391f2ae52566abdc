//! Packages as data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A Debian package, as data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version; a package of a release that names none has the release's.
    #[serde(default)]
    pub version: String,
    /// Its architecture: `all`, or dpkg's name of one.
    #[serde(default = "Package::any_machine")]
    pub architecture: String,
    /// The archive section it belongs to.
    #[serde(default = "Package::misc")]
    pub section: String,
    /// The first line is the synopsis, the others are the long description.
    #[serde(default = "Package::synthetic")]
    pub description: String,
    /// Other control fields, such as `Depends` and `Conflicts`.
    #[serde(default)]
    pub control: BTreeMap<String, String>,
    /// The files that it installs.
    #[serde(default, rename = "file")]
    pub files: Vec<File>,
    /// Symbolic links that it installs: path to target.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// Directories that it installs beside those that its files need.
    #[serde(default)]
    pub directories: Vec<String>,
    /// Those of them that only root can enter.
    #[serde(default)]
    pub private_directories: Vec<String>,
    /// Maintainer scripts by name: `preinst`, `postinst`, `prerm`, `postrm`, `config`, `triggers`.
    #[serde(default)]
    pub scripts: BTreeMap<String, String>,
    /// True if it ships a service of its name: program, unit and maintainer scripts are then filled in.
    #[serde(default)]
    pub service: bool,
    /// The unit of the service that it ships, without `.service`, if that has another name than the package.
    #[serde(default, deserialize_with = "unit")]
    pub unit: Option<String>,
}

/// A file that a package installs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where, from the root: `/etc/xivo/xivo.conf`.
    pub path: String,
    /// What is in it: a text, or `{ file = "…" }`, a path from the directory of the harness.
    #[serde(deserialize_with = "content")]
    pub content: Vec<u8>,
    /// Its permissions.
    #[serde(default = "File::readable")]
    pub mode: u32,
    /// True for a file that dpkg leaves alone once the admin has edited it.
    #[serde(default)]
    pub conffile: bool,
}

impl Package {
    /// A package with a name and a version and nothing in it.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: Self::any_machine(),
            section: Self::misc(),
            description: Self::synthetic(),
            ..Self::default()
        }
    }

    /// One more file.
    #[must_use]
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.files.push(File { path: path.to_owned(), content: content.into(), mode, conffile: false });
        self
    }

    /// One more file, which dpkg leaves alone once the admin has edited it.
    #[must_use]
    pub fn conffile(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push(File { path: path.to_owned(), content: content.into(), mode: 0o644, conffile: true });
        self
    }

    /// One more control field.
    #[must_use]
    pub fn control(mut self, name: &str, value: impl Into<String>) -> Self {
        self.control.insert(name.to_owned(), value.into());
        self
    }

    /// One more maintainer script, whole.
    #[must_use]
    pub fn script(mut self, name: &str, text: impl Into<String>) -> Self {
        self.scripts.insert(name.to_owned(), text.into());
        self
    }

    /// A maintainer script, to be changed: one that does nothing if there is none.
    pub fn script_mut(&mut self, name: &str) -> &mut String {
        self.scripts.entry(name.to_owned()).or_insert_with(|| "#!/bin/sh\nset -e\n".to_owned())
    }

    /// The name of its .deb. An epoch does not appear in it.
    #[must_use]
    pub fn file_name(&self) -> String {
        let version = self.version.split_once(':').map_or(self.version.as_str(), |(_, version)| version);
        format!("{}_{version}_{}.deb", self.name, self.architecture)
    }

    fn any_machine() -> String {
        "all".to_owned()
    }

    fn misc() -> String {
        "misc".to_owned()
    }

    fn synthetic() -> String {
        "synthetic package of a test release".to_owned()
    }
}

impl File {
    fn readable() -> u32 {
        0o644
    }
}

fn unit<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.is_empty() || name.contains(['/', '.']) {
        return Err(serde::de::Error::custom(format!("{name:?} is not the name of a service's unit without .service")));
    }
    Ok(Some(name))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Of { file: PathBuf },
}

fn content<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    match Content::deserialize(deserializer)? {
        Content::Text(text) => Ok(text.into_bytes()),
        Content::Of { file } => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            std::fs::read(&path).map_err(|error| serde::de::Error::custom(format!("{}: {error}", path.display())))
        }
    }
}
