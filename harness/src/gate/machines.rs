//! The machines of the gate: with an old version, or with the candidate.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use upgrader::checks::validated::Set;

use super::manifest;
use super::offer::{Offer, Origin, version};
use super::options::{GateOptions, OFFERED};
use crate::at_once::both;
use crate::machines::engine::Engine;
use crate::machines::image::{Debian, Image};
use crate::machines::machine::{Machine, Storage};
use crate::machines::product_machine::INSTALLATION;
use crate::machines::world::World;
use crate::matrix::check::Target;
use crate::observe::inventory::{Inventory, Section};
use crate::packages::deb;
use crate::packages::package::Package;
use crate::packages::shipped::Product;
use crate::packages::shipped::vendor::utf8;

/// The timeout of installations and upgrades of a vendor's packages.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// The version of the upgrader that machines get where the vendor's repository has none. Every other is newer.
const SUBSTITUTE: &str = "0~gate";

/// How many lines of what apt said are shown when it failed.
const TAIL: usize = 25;

/// Brings a machine to what its sources offer, and installs packages on it as an admin would.
const INSTALL: &str = "export DEBIAN_FRONTEND=noninteractive
apt-get -qq -o APT::Update::Error-Mode=any update
apt-get -q -y -o Dpkg::Use-Pty=0 --allow-downgrades dist-upgrade
apt-get -q -y -o Dpkg::Use-Pty=0 --allow-downgrades install";

/// Makes Debian's own repositories sources of a machine.
const DEBIAN_SOURCES: &str = "for source in /etc/apt/debian-sources/*; do
    case $source in
        */sources.list) cp \"$source\" /etc/apt/ ;;
        *) cp \"$source\" /etc/apt/sources.list.d/ ;;
    esac
done";

/// Pins all packages to the repositories that the machine has now, even if later ones have newer versions.
const PREFER: &str =
    "apt-cache policy | sed -n 's/^ *release //p' | grep -v 'a=now' | sort -u | while read -r release; do
    printf 'Package: *\\nPin: release %s\\nPin-Priority: 1001\\n\\n' \"$release\"
done >/etc/apt/preferences.d/gate";

/// Where machines come from, and what all of them have.
pub(super) struct Machines<'a> {
    pub(super) options: &'a GateOptions,
    engine: Engine,
    /// The upgrader, packaged for the vendor's product: for repositories that do not have it.
    pub(super) upgrader: Package,
}

/// A machine on which the candidate was installed.
pub(super) struct Installed {
    /// The packages on it; its version is that of the version package.
    pub(super) set: Set,
    /// What upgraded machines are compared with.
    pub(super) target: Target,
}

impl<'a> Machines<'a> {
    pub(super) fn new(options: &'a GateOptions) -> Result<Self> {
        let definition = &options.product.definition;
        let name = options.name.clone().unwrap_or_else(|| options.product.name());
        let hooks = options.hooks.as_ref().or(options.product.beside.as_ref());
        let product = Product {
            name: &name,
            title: &definition.name,
            vendor: "Release gate <gate@localhost>",
            homepage: None,
            version: SUBSTITUTE,
            definition: utf8(&options.product.path)?,
            hooks: hooks.map(|hooks| utf8(hooks)).transpose()?,
        };
        let engine = Engine::connect()?;
        engine.sweep()?;
        Ok(Self { options, engine, upgrader: product.upgrader()? })
    }

    /// Installs the candidate on two new machines.
    pub(super) fn installed(&self, debian: Debian) -> Result<Installed> {
        let offer = self.options.candidate();
        let install = || {
            let world = self.boot(&debian.machine(), &offer)?;
            let base = manifest::names(&world.machine)?;
            self.install(&world, debian, &offer, None)?;
            anyhow::Ok((
                Inventory::collect(&world.machine, &[Section::Release])?,
                manifest::members(&world.machine, &base, &self.upgrader.name)?,
            ))
        };
        let (one, other) = both(install, install);
        let ((inventory, (base, members)), (other, _)) = (one?, other?);
        let named = |line: String| line[2..].split(' ').take(2).collect::<Vec<_>>().join(" ") + " ";
        let own = inventory.differences(&other).into_iter().map(named).collect();
        let packages = inventory.packages();
        let package = self.version_package();
        let version = packages.get(package).with_context(|| format!("the candidate does not bring {package}"))?.clone();
        // Services of a vendor do not report their versions.
        let target = Target { packages, reports_versions: false, installed: inventory, own, next_debian: None };
        let product = self.options.product.definition.name.clone();
        let set = Set { product, version, debian: debian.to_string(), packages: members, base };
        Ok(Installed { set, target })
    }

    /// A machine with an old version, and that version. Its sources are still the old ones.
    pub(super) fn old(&self, debian: Debian, from: &str) -> Result<(World, String)> {
        let offer = self.options.old();
        let wanted = (from != OFFERED).then_some(from);
        let make = || {
            let world = self.boot(&debian.machine(), &offer)?;
            let version = self.find(&world, debian, &offer, wanted)?;
            self.install(&world, debian, &offer, Some(&version))?;
            anyhow::Ok(world)
        };
        let world = match self.image(debian, from, offer.origin)? {
            None => make()?,
            Some(image) => {
                image.make_once(&self.engine, || {
                    let world = make()?;
                    world.machine.sh(INSTALLATION)?;
                    world.machine.save(&image)
                })?;
                self.boot(&image, &offer)?
            }
        };
        let version = world.machine.version(self.version_package())?;
        Ok((world, version))
    }

    /// Replaces the old repository by the candidate's.
    pub(super) fn publish_candidate(&self, world: &mut World, debian: Debian) -> Result<()> {
        let offer = self.options.candidate();
        world.publish_built(offer.origin.debs())?;
        offer.add_to(&world.machine, debian)
    }

    /// What a candidate is, and which upgrader machines get to it.
    pub(super) fn offered(&self, Installed { set: Set { version, .. }, target }: &Installed) -> String {
        let (title, upgrader) = (&self.options.product.definition.name, &self.upgrader.name);
        match target.packages.get(upgrader).filter(|version| *version != SUBSTITUTE) {
            Some(its) => format!("the candidate is {title} {version}, with {upgrader} {its}"),
            None => {
                format!(
                    "the candidate is {title} {version}; it has no {upgrader}, so one is made of the product's files"
                )
            }
        }
    }

    pub(super) fn version_package(&self) -> &str {
        &self.options.product.definition.version_package
    }

    /// Boots a machine that reaches what is offered in a directory, and the upgrader.
    fn boot(&self, image: &Image, offer: &Offer) -> Result<World> {
        // A disk cannot be the root of an isolated machine.
        let storage = if self.engine.isolates()? { Storage::Layers } else { Storage::wanted()? };
        let mut world = World::boot_image(storage, &self.engine, image)?;
        world.publish([&self.upgrader])?;
        world.publish_built(offer.origin.debs())?;
        Ok(world)
    }

    /// The cached image of a machine with an old version, named after its packages. Only for packages in a directory: a repository on the
    /// network changes.
    fn image(&self, debian: Debian, from: &str, origin: &Origin) -> Result<Option<Image>> {
        let Origin::Directory(_, debs) = origin else { return Ok(None) };
        if self.options.debian_sources {
            return Ok(None);
        }
        let (upgrader, wanted, base) = (deb::build(&self.upgrader)?.bytes, self.wanted(), debian.machine().tag);
        let texts = [from, &wanted, &base, INSTALL, PREFER, INSTALLATION].map(str::as_bytes);
        let debs = debs.iter().map(|deb| deb.bytes.as_ref());
        let ingredients = texts.into_iter().chain([upgrader.as_ref()]).chain(debs);
        // The name of a package may have a + in it, that of an image may not.
        let name = format!("{debian}-gate-{}", self.upgrader.name.trim_end_matches("-upgrade").replace('+', "-"));
        Ok(Some(Image::of(&name, ingredients)))
    }

    /// What is installed, as apt-get takes it.
    fn wanted(&self) -> String {
        let GateOptions { metapackage, .. } = self.options;
        let packages =
            metapackage.iter().map(String::as_str).chain([self.version_package(), self.upgrader.name.as_str()]);
        packages.collect::<Vec<_>>().join(" ")
    }

    /// Makes the old repository a source, finds the wanted version in it, and pins both.
    fn find(&self, world: &World, debian: Debian, offer: &Offer, wanted: Option<&str>) -> Result<String> {
        let (machine, package) = (&world.machine, self.version_package());
        offer.add_to(machine, debian)?;
        output(machine, "apt-get -qq -o APT::Update::Error-Mode=any update")
            .context("the old repository cannot be read")?;
        let versions = output(machine, &format!("apt-cache madison {package} | cut -d'|' -f2"))?;
        let versions: Vec<String> = versions.lines().map(|version| version.trim().to_owned()).collect();
        let version = version(package, wanted, &versions)?.to_owned();
        output(machine, PREFER)?;
        if wanted.is_some() {
            // Of `*` alone apt takes no version.
            let pin = format!("Package: ?*\nPin: version {version}\nPin-Priority: 1002\n");
            machine.write("/etc/apt/preferences.d/gate-version", pin.as_bytes(), 0o644)?;
        }
        Ok(version)
    }

    /// Installs the product and its upgrader.
    fn install(&self, world: &World, debian: Debian, offer: &Offer, version: Option<&str>) -> Result<()> {
        let machine = &world.machine;
        offer.add_to(machine, debian)?;
        if self.options.debian_sources {
            output(machine, DEBIAN_SOURCES)?;
        }
        let version = version.map(|version| format!(" {}={version}", self.version_package())).unwrap_or_default();
        output(machine, &format!("{INSTALL} {}{version}\nrm -f /etc/apt/preferences.d/gate*", self.wanted()))
            .with_context(|| format!("{} cannot be installed from {}", self.wanted(), offer.origin))?;
        Ok(())
    }
}

/// Runs a script that may take an hour, and returns what it printed. If it fails, the error has apt's own and the end of what was printed.
fn output(machine: &Machine, script: &str) -> Result<String> {
    let transcript = machine.command(&["sh", "-euc", script]).env("LC_ALL", "C.UTF-8").timeout(TIMEOUT).run()?;
    if transcript.exit != 0 {
        let lines: Vec<&str> = transcript.screen.lines().collect();
        let complaint = lines.iter().rfind(|line| line.starts_with("E: ")).map(|line| format!("{line}\n"));
        bail!("{}{}", complaint.unwrap_or_default(), lines[lines.len().saturating_sub(TAIL)..].join("\n"));
    }
    Ok(transcript.screen)
}
