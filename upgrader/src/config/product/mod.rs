//! product.toml: what the product is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use toml::Spanned;

use crate::config::strict;
use crate::exit::Failure;
use crate::model::policy::ConffilePolicy;
use crate::model::policy::ValidationPolicy;

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
    pub database: Option<Database>,
    /// What is put back beside what always is.
    #[serde(default)]
    pub rollback: Rollback,
    /// How to find out about the other machine, of a product that comes in pairs.
    pub pair: Option<Pair>,
}

/// A product that comes in pairs: one node does the work, the other takes over when it fails.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pair {
    role: Spanned<Vec<String>>,
    peer_version: Spanned<Vec<String>>,
    /// How long each of the two may take.
    #[serde(default = "Pair::default_timeout", deserialize_with = "strict::duration")]
    pub timeout: Duration,
}

impl Pair {
    fn default_timeout() -> Duration {
        Duration::from_secs(10)
    }

    /// The program, and its arguments, whose last line says what this node is: `active`, `passive` or `alone`.
    #[must_use]
    pub fn role(&self) -> &[String] {
        self.role.get_ref()
    }

    /// The program, and its arguments, whose last line is the version of the version package on the other node.
    #[must_use]
    pub fn peer_version(&self) -> &[String] {
        self.peer_version.get_ref()
    }

    /// What is wrong with it, and where it is said.
    fn complaint(&self) -> Option<(usize, String)> {
        [("role", &self.role), ("peer-version", &self.peer_version)]
            .into_iter()
            .find(|(_, words)| words.get_ref().first().is_none_or(String::is_empty))
            .map(|(key, words)| (words.span().start, format!("pair.{key}: names no program")))
    }
}

/// What an upgrade that fails puts back beside what it always does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Files and directories with the product's own state. They are copied before anything is changed: data that grows belongs into
    /// the database, or stays.
    #[serde(default)]
    paths: Vec<Spanned<PathBuf>>,
}

impl Rollback {
    /// The paths.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.paths.iter().map(|path| path.get_ref().clone()).collect()
    }
}

/// The product's services.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    order: Spanned<Vec<String>>,
    /// How they are restarted.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// For how long all of them must stay up after the last was restarted; zero looks once.
    #[serde(default = "Services::default_settle", deserialize_with = "strict::span")]
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
    pub command: Vec<String>,
    /// For how long to try.
    #[serde(default = "Ready::default_timeout", deserialize_with = "strict::duration")]
    pub timeout: Duration,
}

impl Ready {
    fn default_timeout() -> Duration {
        Duration::from_secs(60)
    }
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
    name: Spanned<String>,
    owner: Spanned<String>,
    migrate: Option<Spanned<Vec<String>>>,
    pending: Option<Spanned<Vec<String>>>,
}

/// The database servers that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseKind {
    /// PostgreSQL, on this machine.
    Postgresql,
}

impl Database {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.get_ref()
    }

    /// The role that owns it, and everything that migrations make in it.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.owner.get_ref()
    }

    /// The product's own command that migrates it, in place of migration files: program and arguments.
    #[must_use]
    pub fn migrate(&self) -> Option<&[String]> {
        self.migrate.as_ref().map(|words| words.get_ref().as_slice())
    }

    /// The program that prints what [`Self::migrate`] would do, one migration a line.
    #[must_use]
    pub fn pending(&self) -> Option<&[String]> {
        self.pending.as_ref().map(|words| words.get_ref().as_slice())
    }

    /// What is wrong with it, and where it is said.
    fn complaint(&self) -> Option<(usize, String)> {
        for (key, name) in [("name", &self.name), ("owner", &self.owner)] {
            if !is_database_name(name.get_ref()) {
                let what = format!("database.{key}: {:?} is not a name of letters, digits, _ and -", name.get_ref());
                return Some((name.span().start, what));
            }
        }
        for (key, words) in [("migrate", &self.migrate), ("pending", &self.pending)] {
            if let Some(words) = words.as_ref().filter(|words| words.get_ref().first().is_none_or(String::is_empty)) {
                return Some((words.span().start, format!("database.{key}: names no program")));
            }
        }
        match (&self.pending, &self.migrate) {
            (Some(pending), None) => {
                Some((pending.span().start, "database.pending: there is no database.migrate".to_owned()))
            }
            _ => None,
        }
    }
}

impl Services {
    fn default_settle() -> Duration {
        Duration::from_secs(5)
    }

    /// The services, first to start first.
    #[must_use]
    pub fn order(&self) -> &[String] {
        self.order.get_ref()
    }

    /// The same for some of the services.
    #[must_use]
    pub fn only(&self, services: &[String]) -> Self {
        let mut some = self.clone();
        some.order.get_mut().retain(|service| services.contains(service));
        some
    }

    /// How to find out that a service is ready, if systemd's word is not enough.
    #[must_use]
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
        let text = std::fs::read_to_string(path).with_context(|| {
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
        let line_at = |offset| strict::line_at(text, offset);
        let product: Self = strict::parse(text)?;
        let services = &product.services;
        let order_line = line_at(services.order.span().start);
        if services.order().is_empty() {
            return Err((order_line, "services.order: names no service".to_owned()));
        }
        for (index, service) in services.order().iter().enumerate() {
            if !is_unit_name(service) {
                return Err((order_line, format!("services.order: {service:?} is not the name of a unit")));
            }
            if services.order()[..index].contains(service) {
                return Err((order_line, format!("services.order: {service} is named twice")));
            }
        }
        for (service, ready) in &services.ready {
            let line = line_at(service.span().start);
            let service = service.get_ref();
            if !services.order().contains(service) {
                return Err((line, format!("services.ready.{service}: this service is not in services.order")));
            }
            if ready.command.is_empty() {
                return Err((line, format!("services.ready.{service}.command: names no program")));
            }
        }
        if let Some(path) = product.rollback.paths.iter().find(|path| !path.get_ref().is_absolute()) {
            let what = format!("rollback.paths: {} is not an absolute path", path.get_ref().display());
            return Err((line_at(path.span().start), what));
        }
        let complaint = product.database.as_ref().and_then(Database::complaint);
        if let Some((offset, what)) = complaint.or_else(|| product.pair.as_ref().and_then(Pair::complaint)) {
            return Err((line_at(offset), what));
        }
        Ok(product)
    }
}

/// The characters that systemd.unit(5) allows, and no dash in front, which would be an option.
fn is_unit_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
}

/// A name that PostgreSQL's programs take for nothing but a name (they take an option, a connection string and a URI in its
/// place), that needs no escaping in SQL, and that is not cut off (`NAMEDATALEN`).
fn is_database_name(name: &str) -> bool {
    name.len() < 64
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests;
