//! Releases as data: the files in `releases/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use upgrader::database::is_migration;

use crate::data;
use crate::packages::package::Package;
use crate::packages::service::add_service;
use crate::packages::shipped::{Product, XIVO};

/// A release of the product: the packages that its vendor publishes together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// What is special about this release.
    pub description: String,
    /// The product that it is a release of; its metapackage has the same name.
    #[serde(default = "Release::xivo")]
    pub product: String,
    /// Its version, and that of every package in it that names none.
    pub version: String,
    /// Its packages.
    #[serde(rename = "package")]
    pub packages: Vec<Package>,
    /// The migrations of the product's database, those of the releases before it included.
    #[serde(default, rename = "migration")]
    pub migrations: Vec<Migration>,
}

/// A migration of the product's database: a file of the upgrader that is published with the release.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migration {
    /// Its name without `.sql`: `001-call-log`.
    #[serde(deserialize_with = "migration_name")]
    pub name: String,
    /// What it does.
    pub sql: String,
}

impl Release {
    /// Reads one of the releases that come with the harness: `1.2.1` is `releases/xivo-1.2.1.toml`.
    pub fn named(version: &str) -> Result<Self> {
        Self::of(&XIVO, version)
    }

    /// The same of another product.
    pub fn of(product: &Product, version: &str) -> Result<Self> {
        Self::read(&path(product.name, version))
    }

    /// Its file, if it comes with the harness.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path(&self.product, &self.version)
    }

    /// The product's upgrader as it is published with this release: with the release's migrations.
    #[must_use]
    pub fn with_migrations(&self, upgrader: Package) -> Package {
        self.migrations.iter().fold(upgrader, |upgrader, Migration { name, sql }| {
            let path = format!("/usr/share/{}/migrations/{name}.sql", upgrader.name);
            upgrader.file(&path, sql.as_str(), 0o644)
        })
    }

    /// One of its packages, to change it.
    pub fn package_mut(&mut self, name: &str) -> Result<&mut Package> {
        let package = self.packages.iter_mut().find(|package| package.name == name);
        package.with_context(|| format!("the release has no {name}"))
    }

    fn xivo() -> String {
        XIVO.name.to_owned()
    }

    /// Reads a release. The error is one line that names the file, the line and the key.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &std::fs::read_to_string(path).with_context(|| path.display().to_string())?)
    }

    /// A release that comes with the harness, as if it had another version: wherever its own is written, also in what its
    /// packages depend on.
    pub fn like(version: &str, other: &str) -> Result<Self> {
        let path = path(XIVO.name, version);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(&path, &text.replace(version, other))
    }

    /// One that comes with the harness, after a change of what is written there.
    pub fn changed(version: &str, change: impl FnOnce(&mut Self) -> Result<()>) -> Result<Self> {
        let mut release: Self = data::read(&path(XIVO.name, version))?;
        change(&mut release)?;
        release.complete();
        Ok(release)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut release: Self = data::parse(path, text)?;
        release.complete();
        Ok(release)
    }

    /// Fills in what packages leave to the release, and what debhelper would write.
    fn complete(&mut self) {
        for package in &mut self.packages {
            if package.version.is_empty() {
                package.version.clone_from(&self.version);
            }
            for (name, script) in &mut package.scripts {
                if !["triggers", "templates"].contains(&name.as_str()) && !script.starts_with("#!") {
                    script.insert_str(0, "#!/bin/sh\nset -e\n");
                }
            }
            if package.service || package.unit.is_some() {
                add_service(package);
            }
        }
    }
}

fn migration_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if !is_migration(&format!("{name}.sql")) {
        return Err(serde::de::Error::custom(format!("{name:?} is not the name of a migration, such as 003-call-log")));
    }
    Ok(name)
}

fn path(product: &str, version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("releases").join(format!("{product}-{version}.toml"))
}

#[cfg(test)]
mod tests {
    use documented::Page;

    use super::*;
    use crate::data::keys;
    use crate::packages::package::File;

    #[test]
    fn every_release_that_comes_with_the_harness_is_good() {
        let files = data::files("releases").unwrap();
        assert!(files.len() >= 2);
        for (_, path) in files {
            let release = Release::read(&path).unwrap();
            assert_eq!(path, release.path(), "a release is named after its product and version");
            for package in &release.packages {
                crate::packages::deb::build(package).unwrap();
            }
        }
    }

    #[test]
    fn every_key_is_documented_and_the_example_is_good() {
        let page = Page::read("docs/reference/release.md");
        page.section("## The release").has_keys(keys::<Release>());
        page.section("### Files").has_keys(keys::<File>());
        page.section("## Packages").has_keys(keys::<Package>().into_iter().chain(keys::<File>()));
        page.section("## Migrations").has_keys(keys::<Migration>());
        for example in page.examples("release") {
            let release = Release::parse(Path::new("example.toml"), &example.text).unwrap();
            for package in &release.packages {
                crate::packages::deb::build(package).unwrap();
            }
        }
    }

    #[test]
    fn what_is_without_a_key_is_as_documented() {
        let (packages, files) = (Page::read("docs/reference/release.md"), "### Files");
        let packages_files = packages.section(files);
        let packages = packages.section("## Packages");
        let read = |text: &str| data::parse::<Package>(Path::new("x.toml"), &format!("name = \"a\"\n{text}")).unwrap();
        let said = |key| format!("{key} = \"{}\"\n", packages.beside(key));
        let service = format!("service = {}", packages.beside("service"));
        let all = said("architecture") + &said("section") + &said("description") + &service;
        assert_eq!(read(&all), read(""));
        let said = |key| format!("{key} = {}\n", packages_files.beside(key));
        let file = "[[file]]\npath = \"/a\"\ncontent = \"\"\n";
        assert_eq!(read(&format!("{file}{}{}", said("mode"), said("conffile"))), read(file));
    }

    #[test]
    fn what_is_wrong_with_a_release_is_said_with_its_line_and_key() {
        for (table, expected) in [
            ("package]]\nname = \"a\"\ndepend = []", "5: unknown field `depend`"),
            ("package]]\nname = \"a\"\nunit = \"a.service\"", "5: unit: \"a.service\" is not"),
            ("migration]]\nname = \"1-a\"\nsql = \"\"", "4: name: \"1-a\" is not"),
            ("migration]]\nname = \"001-a\"", "3: missing field `sql`"),
        ] {
            let text = format!("description = \"x\"\nversion = \"1\"\n[[{table}\n");
            let error = Release::parse(Path::new("bad.toml"), &text).unwrap_err().to_string();
            assert!(error.contains(&format!("bad.toml:{expected}")), "{error}");
        }
    }
}
