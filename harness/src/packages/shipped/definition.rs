//! The product.toml in a package of the upgrader. Tests that need another one edit what is shipped, or replace it as a whole.

use anyhow::{Context as _, Result};
use toml::{Table, Value};

use crate::packages::package::{File, Package};

/// Where XiVO's upgrader has it.
pub const PRODUCT: &str = "/usr/share/xivo-upgrade/product.toml";

/// The product.toml of a package of XiVO's upgrader.
pub(crate) fn file(package: &mut Package) -> Result<&mut File> {
    package.files.iter_mut().find(|file| file.path == PRODUCT).context("the package has no product.toml")
}

/// A package of XiVO's upgrader with another product.toml.
pub fn with_definition(mut package: Package, definition: &str) -> Result<Package> {
    file(&mut package)?.content = definition.as_bytes().to_vec();
    Ok(package)
}

/// A package of XiVO's upgrader after a change of its product.toml.
pub(crate) fn edited(mut package: Package, edit: impl FnOnce(&mut Table) -> Result<()>) -> Result<Package> {
    let file = file(&mut package)?;
    let mut table: Table = toml::from_slice(&file.content)?;
    edit(&mut table)?;
    file.content = toml::to_string(&table)?.into_bytes();
    Ok(package)
}

/// Sets a key of `[services]`; without a value the key is removed.
pub(crate) fn set_services(definition: &mut Table, key: &str, value: Option<&str>) {
    let services = definition.entry("services").or_insert_with(|| Value::Table(Table::new()));
    if let Some(services) = services.as_table_mut() {
        match value {
            Some(value) => services.insert(key.to_owned(), value.into()),
            None => services.remove(key),
        };
    }
}
