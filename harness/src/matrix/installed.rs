//! The inventories that upgraded machines are compared with: of machines on which a release was installed.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::machines::database;
use crate::machines::image::{Debian, Image};
use crate::machines::product_machine;
use crate::observe::inventory::{Inventory, Section};
use crate::packages::binaries;
use crate::packages::deb;
use crate::packages::package::Package;
use crate::packages::release::Release;

/// The inventory of a machine on which a release was installed, with this upgrader and maybe a database. It is saved in the target directory
/// for the next that asks.
pub(super) fn inventory(
    debian: Debian,
    release: &Release,
    upgrader: &Package,
    has_database: bool,
) -> Result<Inventory> {
    let packages = release.packages.iter().chain([upgrader]).map(|package| Ok(deb::build(package)?.bytes));
    let packages = packages.collect::<Result<Vec<_>>>()?;
    let (tag, script) = (debian.machine().tag, Inventory::script(&[Section::Release]));
    let prepared = if has_database { database::PREPARE } else { "" };
    let ingredients = [tag.as_str(), prepared, &script].map(str::as_bytes);
    let name = Image::of("inventory", packages.iter().map(AsRef::as_ref).chain(ingredients)).tag;
    let directory = binaries::target().join("matrix/inventories");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let file = format!("{debian}-{}-{name}", release.version);
    let path = directory.join(&file);
    if let Some(saved) = read(&path)? {
        return Ok(saved);
    }
    // Another thread or process that needs the same waits here instead of collecting it as well.
    let lock = File::create(directory.join(format!("{debian}-{}.lock", release.version)))?;
    lock.lock()?;
    if let Some(saved) = read(&path)? {
        return Ok(saved);
    }
    let world = if has_database {
        product_machine::with_database(debian, release, upgrader)?
    } else {
        product_machine::at_release(debian, &release.version, upgrader)?
    };
    let inventory = Inventory::collect(&world.machine, &[Section::Release])?;
    let new = directory.join(format!("{file}.new"));
    fs::write(&new, inventory.text())?;
    fs::rename(&new, &path)?;
    Ok(inventory)
}

fn read(path: &Path) -> Result<Option<Inventory>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Inventory::parse(&text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}
