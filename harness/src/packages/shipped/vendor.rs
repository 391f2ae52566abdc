//! The directory of a vendor's product, and the package that is made of it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use regex::Regex;
use upgrader::config::product::Product as Definition;
use upgrader::database::is_migration;

use super::{Product, VERSION, XIVO};
use crate::data;
use crate::packages::deb;

/// What may be in the directory of a product.
const KNOWN: [&str; 7] =
    ["product.toml", "pre-upgrade.d", "post-upgrade.d", "lib", "hooks.toml", "migrations", "validated"];

/// What is packaged: the upgrader of this tree's product, or of another.
#[derive(Debug, Args)]
pub struct DebOptions {
    /// Where to put it
    #[arg(default_value = "target/deb")]
    directory: PathBuf,
    /// The product: the directory with its product.toml, hooks (pre-upgrade.d, post-upgrade.d) and migrations; without it XiVO
    #[arg(long, value_name = "DIRECTORY", value_parser = Described::parse_directory, requires = "maintainer")]
    product: Option<Described>,
    /// The NAME of `NAME-upgrade`, if it is not the product's name in small letters
    #[arg(long, value_parser = package_name, requires = "product")]
    name: Option<String>,
    /// Who maintains the package
    #[arg(long, value_name = "NAME <ADDRESS>", value_parser = maintainer, requires = "product")]
    maintainer: Option<String>,
    /// The version of the package. Machines take a package only if its version is newer
    #[arg(long, value_parser = version, default_value = VERSION, requires = "product")]
    version: String,
    /// A page about upgrades of the product
    #[arg(long, value_name = "URL", requires = "product")]
    homepage: Option<String>,
}

/// Packages the upgrader, and prints where the package is.
pub fn package(options: &DebOptions, out: &mut dyn Write) -> Result<()> {
    let DebOptions { directory, product, name, maintainer, version, homepage } = options;
    let package = match product {
        None => XIVO.upgrader()?,
        Some(product) => Product {
            name: &name.clone().unwrap_or_else(|| product.name()),
            title: &product.definition.name,
            vendor: maintainer.as_deref().context("--maintainer is missing")?,
            homepage: homepage.as_deref(),
            version,
            definition: utf8(&product.path)?,
            hooks: product.beside.as_deref().map(utf8).transpose()?,
        }
        .upgrader()?,
    };
    let file = directory.join(package.file_name());
    data::write(&file, deb::build(&package)?.bytes)?;
    writeln!(out, "{}", file.display())?;
    Ok(())
}

/// A product.toml, and where it is.
#[derive(Debug, Clone)]
pub struct Described {
    /// The file: an absolute path.
    pub path: PathBuf,
    /// What it says.
    pub definition: Definition,
    /// The directory of the product, if that was named and not the file.
    pub beside: Option<PathBuf>,
}

impl Described {
    /// Reads a product.toml, or the directory of a product, as it is named on the command line. The error is one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        if Path::new(text).is_dir() { Self::parse_directory(text) } else { Self::read(Path::new(text)) }
    }

    /// Reads the directory of a product.
    pub fn parse_directory(text: &str) -> Result<Self, String> {
        let directory = Path::new(text);
        if !directory.is_dir() {
            return Err("there is no such directory".to_owned());
        }
        let file = directory.join("product.toml");
        if !file.exists() {
            return Err(format!("{text}: there is no product.toml in this directory"));
        }
        let mut product = Self::read(&file)?;
        product.check(directory).map_err(|error| format!("{error:#}"))?;
        product.beside = product.path.parent().map(Path::to_owned);
        Ok(product)
    }

    fn read(path: &Path) -> Result<Self, String> {
        if !path.is_file() {
            return Err("there is no such file".to_owned());
        }
        let definition = Definition::read(path).map_err(|error| error.to_string())?;
        let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, definition, beside: None })
    }

    /// The NAME of `NAME-upgrade` that the product's name makes: `Acme Gateway` is `acme-gateway`.
    #[must_use]
    pub fn name(&self) -> String {
        let lower = self.definition.name.to_lowercase();
        let parts = lower.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join("-")
    }

    /// Refuses files that would not be packaged, and migrations that would not be applied.
    fn check(&self, directory: &Path) -> Result<()> {
        for name in names(directory)? {
            if !KNOWN.contains(&name.as_str()) && !name.starts_with("README") {
                bail!("{}: not packaged; known are {}", directory.join(name).display(), KNOWN.join(", "));
            }
        }
        let migrations = directory.join("migrations");
        if migrations.is_dir() {
            ensure!(
                self.definition.database.is_some(),
                "{}: not applied, because product.toml has no [database]",
                migrations.display()
            );
            if let Some(name) = names(&migrations)?.iter().find(|name| !is_migration(name)) {
                bail!("{}: not a name for a migration, such as 003-call-log.sql", migrations.join(name).display());
            }
        }
        Ok(())
    }
}

/// What is in a directory and not hidden, by name.
fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<std::io::Result<Vec<_>>>().with_context(|| directory.display().to_string())?;
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names)
}

/// A path as a text.
pub fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: the path is not UTF-8", path.display()))
}

/// The beginning of a package's name (Debian Policy 5.6.1).
pub fn package_name(text: &str) -> Result<String, String> {
    matching("^[a-z0-9][a-z0-9+.-]*$", text, "a package's name has small letters, digits, + - and .")
}

/// A package's maintainer (Debian Policy 5.6.2).
fn maintainer(text: &str) -> Result<String, String> {
    matching("^.* <.*@.*>$", text, "a maintainer is written \"Name <name@vendor.example>\"")
}

/// A version without an epoch and without a Debian revision (Debian Policy 5.6.12).
fn version(text: &str) -> Result<String, String> {
    let otherwise = "a version begins with a digit and has letters, digits, . + and ~, for example ";
    matching("^[0-9][a-zA-Z0-9.+~]*$", text, &format!("{otherwise}{VERSION}+1"))
}

/// A text, if it matches a pattern.
fn matching(pattern: &str, text: &str, otherwise: &str) -> Result<String, String> {
    let pattern = Regex::new(pattern).map_err(|error| error.to_string())?;
    if pattern.is_match(text) { Ok(text.to_owned()) } else { Err(otherwise.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directory of a product with these files.
    fn product(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        directory
    }

    const GOOD: (&str, &str) =
        ("product.toml", "name = \"Acme Gateway (2)\"\nversion-package = \"acme\"\n[services]\norder = [\"acme\"]\n");

    #[test]
    fn a_directory_is_packaged_with_all_that_is_in_it() {
        let database = format!("{}[database]\nkind = \"postgresql\"\nname = \"a\"\nowner = \"a\"\n", GOOD.1);
        let files =
            [("migrations/001-a.sql", ""), ("validated/bookworm.toml", ""), ("hooks.toml", ""), ("lib/a.py", "")];
        let directory = product(&[&[("product.toml", database.as_str()), ("README.md", "")][..], &files].concat());
        let described = Described::parse(directory.path().to_str().unwrap()).unwrap();
        assert_eq!(described.name(), "acme-gateway-2");
        let product = Product {
            name: "acme",
            title: "Acme",
            vendor: "Acme <a@acme.example>",
            homepage: None,
            version: "1.0+2",
            definition: utf8(&described.path).unwrap(),
            hooks: described.beside.as_deref().map(|path| utf8(path).unwrap()),
        };
        let package = product.upgrader().unwrap();
        assert_eq!(
            package.file_name(),
            format!("acme-upgrade_1.0+2_{}.deb", crate::packages::binaries::architecture())
        );
        for path in ["migrations/001-a.sql", "validated/bookworm.toml", "lib/a.py"] {
            let path = format!("/usr/share/acme-upgrade/{path}");
            assert!(package.files.iter().any(|file| file.path == path), "{path}");
        }
        assert!(!package.files.iter().any(|file| file.path.contains("README")));
        assert!(package.files.iter().any(|file| file.path == "/etc/acme-upgrade/hooks.toml" && file.conffile));
    }

    #[test]
    fn what_would_never_be_used_is_refused() {
        let said = |files: &[(&str, &str)]| {
            let directory = product(files);
            let path = directory.path().to_str().unwrap();
            let error = Described::parse(path).map(|_| ()).unwrap_err();
            error.replace(&format!("{path}/"), "").replace(path, "DIR")
        };
        let cases = [
            said(&[]),
            said(&[("product.toml", "name = \"Acme\"\nversion = \"acme\"\n")]),
            said(&[GOOD, ("postupgrade.d/10-a", "")]),
            said(&[GOOD, ("migrations/001-a.sql", "")]),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r"
        DIR: there is no product.toml in this directory
        product.toml:2: unknown field `version`, expected one of `name`, `version-package`, `services`, `packages`, `database`, `rollback`, `pair`
        postupgrade.d: not packaged; known are product.toml, pre-upgrade.d, post-upgrade.d, lib, hooks.toml, migrations, validated
        migrations: not applied, because product.toml has no [database]
        ");
        let database = format!("{}[database]\nkind = \"postgresql\"\nname = \"a\"\nowner = \"a\"\n", GOOD.1);
        let bad = said(&[("product.toml", database.as_str()), ("migrations/1-a.sql", "")]);
        assert_eq!(bad, "migrations/1-a.sql: not a name for a migration, such as 003-call-log.sql");
        assert_eq!(Described::parse("/nowhere").map(|_| ()), Err("there is no such file".to_owned()));
    }

    #[test]
    fn what_a_package_could_not_have_is_refused() {
        assert!(version("0.1.0+vane1.1").is_ok() && version("1-1").is_err() && version("a").is_err());
        assert!(maintainer("A B <a@b>").is_ok() && maintainer("a@b").is_err() && maintainer("A <b>").is_err());
        assert!(package_name("acme-2").is_ok() && package_name("Acme").is_err() && package_name("").is_err());
    }
}
