//! product.toml, the definition of the product.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IntoDeserializer as _};
use toml::Spanned;

use crate::config::strict;
use crate::exit::Failure;
use crate::files;
use crate::model::policy::{ConffilePolicy, ValidationPolicy};

/// product.toml: what the product is. Shipped by its vendor, never edited by the admin.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Product {
    /// The product's name, as people write it: `XiVO`.
    pub name: String,
    /// The package whose installed and candidate version are the product's.
    pub version_package: String,
    /// The product's services.
    pub services: Services,
    /// Rules for packages.
    #[serde(default)]
    pub packages: Packages,
    /// The product's database, if migrations of it come with upgrades.
    #[serde(default, deserialize_with = "database")]
    pub database: Option<Database>,
    /// What a rollback restores in addition to packages and configuration.
    #[serde(default)]
    pub rollback: Rollback,
    /// How to find out about the other machine, of a product that comes in pairs.
    pub pair: Option<Pair>,
}

/// A product that comes in pairs: one node does the work, the other takes over when it fails.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pair {
    /// The program, and its arguments, whose last line says what this node is: `active`, `passive` or `alone`.
    #[serde(deserialize_with = "command")]
    pub role: Vec<String>,
    /// The program, and its arguments, whose last line is the version of the version package on the other node.
    #[serde(deserialize_with = "command")]
    pub peer_version: Vec<String>,
    /// How long each of the two may take.
    #[serde(default = "seconds::<10>", deserialize_with = "strict::duration")]
    pub timeout: Duration,
}

/// What a rollback restores in addition to packages and configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Files and directories with the product's own state. They are copied before anything is changed: data that grows belongs into
    /// the database, or stays.
    #[serde(default, deserialize_with = "absolute_paths")]
    pub paths: Vec<PathBuf>,
}

/// The product's services.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    /// The services, first to start first.
    #[serde(deserialize_with = "units")]
    pub order: Vec<String>,
    /// How they are restarted.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How long all of them must stay up after the last restart; zero checks once.
    #[serde(default = "seconds::<5>", deserialize_with = "strict::span")]
    pub settle: Duration,
    #[serde(default)]
    ready: BTreeMap<Spanned<String>, Ready>,
}

/// How services are restarted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// One after the other, each down for as short as it can be.
    #[default]
    Rolling,
    /// All down in reverse order, then all up in order.
    StopThenStart,
}

/// How to find out that a service which systemd calls active really serves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Program and arguments; run until it exits with 0.
    #[serde(deserialize_with = "command")]
    pub command: Vec<String>,
    /// For how long to try.
    #[serde(default = "seconds::<60>", deserialize_with = "strict::duration")]
    pub timeout: Duration,
}

/// Rules for packages.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// A plan that would remove one of these is refused.
    #[serde(default)]
    pub protected: Vec<String>,
    /// What becomes of a conffile that the admin has modified when its package brings another version of it.
    #[serde(default)]
    pub conffiles: ConffilePolicy,
    /// What is done about packages that differ from those that were validated.
    #[serde(default)]
    pub validated: ValidationPolicy,
}

/// The product's database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// What serves it.
    pub kind: DatabaseKind,
    /// Its name.
    #[serde(deserialize_with = "database_name")]
    pub name: String,
    /// The role that owns it, and everything that migrations make in it.
    #[serde(deserialize_with = "database_name")]
    pub owner: String,
    /// Extensions that only a superuser can create: the server's superuser creates them before a dump is restored.
    #[serde(default, deserialize_with = "database_names")]
    pub extensions: Vec<String>,
    /// The product's own command that migrates it, in place of migration files: program and arguments.
    #[serde(default, deserialize_with = "optional_command")]
    pub migrate: Option<Vec<String>>,
    /// The program that prints what `migrate` would do, one migration a line.
    #[serde(default, deserialize_with = "optional_command")]
    pub pending: Option<Vec<String>>,
}

/// The database servers that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseKind {
    /// PostgreSQL, on this machine.
    Postgresql,
}

impl Services {
    /// The same for some of the services.
    #[must_use]
    pub fn only(&self, services: &[String]) -> Self {
        let mut some = self.clone();
        some.order.retain(|service| services.contains(service));
        some
    }

    /// How to find out that a service is ready, if systemd's word is not enough.
    pub fn ready(&self, service: &str) -> Option<&Ready> {
        self.ready.iter().find(|(name, _)| name.get_ref() == service).map(|(_, ready)| ready)
    }
}

impl Product {
    /// Reads a product.toml.
    ///
    /// # Errors
    /// One line that names the file, and for what is wrong inside it the line and the key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::text(path).with_context(|| {
            Failure::new(format!("{}: cannot be read", path.display()))
                .remedy("Install the product's upgrade package again: this file is part of it.")
        })?;
        Self::parse(&text).map_err(|(line, message)| {
            Failure::new(format!("{}:{line}: {message}", path.display()))
                .remedy("This file is shipped with the product: install its upgrade package again, or report this to its vendor.")
                .into()
        })
    }

    /// Reads the text of a product.toml; what is wrong comes with the number of its line.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let product: Self = strict::parse(text)?;
        let Services { order, ready, .. } = &product.services;
        if let Some(service) = ready.keys().find(|service| !order.contains(service.get_ref())) {
            let line = strict::line_at(text, service.span().start);
            return Err((line, format!("services.ready.{}: this service is not in services.order", service.get_ref())));
        }
        Ok(product)
    }
}

/// A default for a key.
fn seconds<const SECONDS: u64>() -> Duration {
    Duration::from_secs(SECONDS)
}

/// The names of units, each once: the characters that systemd.unit(5) allows, and no dash in front, which would be an option.
fn units<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let is_unit_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with('-')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
    };
    let names = Vec::<String>::deserialize(deserializer)?;
    for (index, name) in names.iter().enumerate() {
        if !is_unit_name(name) {
            return Err(D::Error::custom(format!("{name:?} is not the name of a unit")));
        }
        if names[..index].contains(name) {
            return Err(D::Error::custom(format!("{name} is named twice")));
        }
    }
    if names.is_empty() { Err(D::Error::custom("names no service")) } else { Ok(names) }
}

/// A program and its arguments.
fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let words = Vec::<String>::deserialize(deserializer)?;
    if words.first().is_none_or(String::is_empty) { Err(D::Error::custom("names no program")) } else { Ok(words) }
}

fn optional_command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    command(deserializer).map(Some)
}

fn database<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Database>, D::Error> {
    let database = Database::deserialize(deserializer)?;
    if database.pending.is_some() && database.migrate.is_none() {
        return Err(D::Error::custom("database.pending: there is no database.migrate"));
    }
    Ok(Some(database))
}

fn absolute_paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = Vec::<PathBuf>::deserialize(deserializer)?;
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(D::Error::custom(format!("{} is not an absolute path", path.display()))),
        None => Ok(paths),
    }
}

/// A name that PostgreSQL's programs take for nothing but a name (they take an option, a connection string and a URI in its
/// place), that needs no escaping in SQL, and that is not cut off (`NAMEDATALEN`).
fn database_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let is_good = name.len() < 64
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if is_good {
        Ok(name)
    } else {
        Err(D::Error::custom(format!("{name:?} is not a name of letters, digits, _ and -")))
    }
}

fn database_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names.into_iter().map(|name| database_name(name.into_deserializer())).collect()
}

#[cfg(test)]
mod tests;
