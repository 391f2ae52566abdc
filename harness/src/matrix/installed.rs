//! The inventories of machines on which a release was installed. Upgraded machines are compared with them.

use anyhow::Result;

use crate::at_once::cached;
use crate::machines::database;
use crate::machines::image::{Debian, Image};
use crate::machines::product_machine;
use crate::observe::inventory::{Inventory, Section};
use crate::packages::binaries;
use crate::packages::deb;
use crate::packages::package::Package;
use crate::packages::release::Release;

/// The inventory of a machine on which a release was installed, with this upgrader and maybe a database. It is cached in the target directory.
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
    let name = format!("matrix/inventories/{debian}-{}-{name}.json", release.version);
    cached(&binaries::target().join(name), || {
        let world = if has_database {
            product_machine::with_database(debian, release, upgrader)?
        } else {
            product_machine::at_release(debian, &release.version, upgrader)?
        };
        Inventory::collect(&world.machine, &[Section::Release])
    })
}
