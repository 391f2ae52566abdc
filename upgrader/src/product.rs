use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use crate::exit::Failure;

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
}

/// The product's services.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    order: Spanned<Vec<String>>,
    /// How they are restarted.
    #[serde(default)]
    pub restart: RestartPolicy,
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
    #[serde(default = "Ready::default_timeout", deserialize_with = "duration")]
    pub timeout: Duration,
}

/// The longest time that can be waited for anything.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

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
}

/// What becomes of a conffile that the admin has modified and the package has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConffilePolicy {
    /// The package's version; the admin's lies beside it as `.dpkg-old`.
    #[default]
    Replace,
    /// The admin's version; the package's lies beside it as `.dpkg-dist`.
    Keep,
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
    /// The services, first to start first.
    #[must_use]
    pub fn order(&self) -> &[String] {
        self.order.get_ref()
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
        let line_at = |offset: usize| text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1);
        let product: Self = toml::from_str(text).map_err(|error| {
            let message = error.message().lines().collect::<Vec<_>>().join(" ");
            (line_at(error.span().map_or(0, |span| span.start)), message)
        })?;
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
        if let Some((offset, what)) = product.database.as_ref().and_then(Database::complaint) {
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

/// A span of time as people write it: `60s`, `2m 30s`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| !duration.is_zero() && *duration <= LONGEST)
        .ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not a span of time such as \"60s\" or \"2m\", at most a day"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"name = "XiVO"
version-package = "xivo"
[services]
order = ["postgresql", "asterisk"]
restart = "stop-then-start"
[services.ready]
asterisk = { command = ["asterisk", "-rx", "core waitfullybooted"], timeout = "90s" }
[packages]
protected = ["xivo"]
conffiles = "keep"
[database]
kind = "postgresql"
name = "asterisk"
owner = "xivo-db"
migrate = ["xivo-dbms", "upgrade"]
pending = ["xivo-dbms", "pending"]
"#;

    #[test]
    fn a_whole_product_is_read() {
        let product = Product::parse(GOOD).expect("it is good");
        assert_eq!(product.services.order(), ["postgresql", "asterisk"]);
        assert_eq!(product.services.restart, RestartPolicy::StopThenStart);
        assert_eq!(product.services.ready("asterisk").expect("declared").timeout, Duration::from_secs(90));
        assert!(product.services.ready("postgresql").is_none());
        assert_eq!(product.packages.conffiles, ConffilePolicy::Keep);
        let database = product.database.expect("declared");
        assert_eq!((database.name(), database.owner()), ("asterisk", "xivo-db"));
        assert_eq!(database.migrate().expect("declared"), ["xivo-dbms", "upgrade"]);
        assert_eq!(database.pending().expect("declared"), ["xivo-dbms", "pending"]);
    }

    /// The one line that is said about `GOOD` after replacing `from` with `to`.
    fn complaint(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from:?} is not in the text");
        let (line, message) = Product::parse(&GOOD.replacen(from, to, 1)).expect_err("it is bad");
        assert!(!message.contains('\n'), "{message}");
        format!("{line}: {message}")
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_key() {
        insta::assert_snapshot!([
            complaint("restart =", "restrat ="),
            complaint("protected = [\"xivo\"]", "protect = [\"xivo\"]"),
            complaint("version-package = \"xivo\"\n", ""),
            complaint("[services]\norder = [\"postgresql\", \"asterisk\"]\nrestart = \"stop-then-start\"\n", ""),
            complaint("[\"postgresql\", \"asterisk\"]", "[]"),
            complaint("\"postgresql\"", "\"asterisk\""),
            complaint("\"postgresql\"", "\"--now\""),
            complaint("\"stop-then-start\"", "\"sometimes\""),
            complaint("asterisk = {", "nginx = {"),
            complaint("\"90s\"", "\"soon\""),
            complaint("\"90s\"", "\"9000000000000000000s\""),
            complaint("[packages]", "[packages"),
            complaint("\"postgresql\"\nname", "\"oracle\"\nname"),
            complaint("owner = \"xivo-db\"\n", ""),
            complaint("\"xivo-db\"", "\"--echo-all\""),
            complaint("name = \"asterisk\"", "name = \"host=other\""),
            complaint("[\"xivo-dbms\", \"upgrade\"]", "[]"),
            complaint("migrate = [\"xivo-dbms\", \"upgrade\"]\n", ""),
            complaint("pending =", "pendings ="),
        ]
        .join("\n"), @r#"
        5: unknown field `restrat`, expected one of `order`, `restart`, `ready`
        9: unknown field `protect`, expected `protected` or `conffiles`
        1: missing field `version-package`
        3: missing field `order`
        4: services.order: names no service
        4: services.order: asterisk is named twice
        4: services.order: "--now" is not the name of a unit
        5: unknown variant `sometimes`, expected `rolling` or `stop-then-start`
        7: services.ready.nginx: this service is not in services.order
        7: "soon" is not a span of time such as "60s" or "2m", at most a day
        7: "9000000000000000000s" is not a span of time such as "60s" or "2m", at most a day
        8: unclosed table, expected `]`
        12: unknown variant `oracle`, expected `postgresql`
        11: missing field `owner`
        14: database.owner: "--echo-all" is not a name of letters, digits, _ and -
        13: database.name: "host=other" is not a name of letters, digits, _ and -
        15: database.migrate: names no program
        15: database.pending: there is no database.migrate
        16: unknown field `pendings`, expected one of `kind`, `name`, `owner`, `migrate`, `pending`
        "#);
    }
}
