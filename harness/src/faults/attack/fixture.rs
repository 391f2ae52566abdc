//! The machine that is attacked: a release with a service that runs as an account of its own, and owns its directories.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::definition::programs;
use crate::data::{self, files_below, tree};
use crate::machines::engine::Engine;
use crate::machines::image::{Debian, Image};
use crate::machines::machine::{Machine, Storage};
use crate::machines::product_machine::{OLD_UPGRADER, debian_packages, installed_image, upgrader};
use crate::machines::world::World;
use crate::packages::package::Package;
use crate::packages::release::Release;
use crate::packages::shipped::VERSION;

/// The releases between which the machine is upgraded.
pub(super) const RELEASES: [&str; 2] = ["1.2.1", "1.2.2"];

/// The package of the account.
pub(super) const PACKAGE: &str = "xivo-phoned";

/// Where the programs of the account are.
const PROGRAMS: &str = "/usr/local/lib/attacks";

/// Prints what no attack may change.
const STATE: &str = include_str!("state.sh");

/// Makes secrets and files of root. [`STATE`] looks for the secrets.
const SECRETS: &str = "printf 'canary:%s:19000:0:99999:7:::\\n' '$6$CANARY-OF-ROOT' >>/etc/shadow
    echo CANARY-OF-ROOT >/root/secret
    mkdir /root/important
    for name in notes 1 2 3 4 5 6 7 8 9; do echo \"$name of root\" >/root/important/$name; done";

/// A machine of a Debian release, and what is published for it.
pub(super) struct AttackFixture {
    engine: Engine,
    image: Image,
    candidate: Vec<Package>,
}

/// What no attack may change on a machine: the lines of [`STATE`].
#[derive(Debug)]
pub(super) struct Untouched(BTreeSet<String>);

impl AttackFixture {
    /// Makes the image of the machine, unless there is one.
    pub(super) fn make(debian: Debian) -> Result<Self> {
        let engine = Engine::connect()?;
        engine.sweep()?;
        let (old, candidate) = (packages(RELEASES[0], OLD_UPGRADER)?, packages(RELEASES[1], VERSION)?);
        // For hooks that use the hook library.
        let base = debian_packages(&engine, debian, "python", &["python3"], ":")?;
        let image = installed_image(&engine, &format!("{debian}-attacks"), &base, &old, PACKAGE)?;
        Ok(Self { engine, image, candidate })
    }

    /// A machine with the old release, for which the new one is published.
    pub(super) fn world(&self) -> Result<World> {
        let mut world = World::boot_image(Storage::wanted()?, &self.engine, &self.image)?;
        world.publish(&self.candidate)?;
        let programs = files_below(&programs(), &["pl", "pm", "sh"])?;
        let programs = programs.iter().map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
            Ok((format!("{PROGRAMS}/{name}"), std::fs::read(path)?))
        });
        let programs = programs.collect::<Result<Vec<_>>>()?;
        let files: Vec<_> = programs.iter().map(|(path, content)| (path.as_str(), content.as_slice(), 0o755)).collect();
        world.machine.write_all(&files)?;
        world.machine.sh(SECRETS)?;
        Ok(world)
    }
}

impl Untouched {
    pub(super) fn collect(machine: &Machine) -> Result<Self> {
        Ok(Self(machine.sh(STATE)?.lines().map(str::to_owned).collect()))
    }

    /// What is new, and what of the system is gone. Lines about paths that the account may have are left out.
    pub(super) fn differences(&self, before: &Self, own: &[String]) -> Vec<String> {
        let new = self.0.difference(&before.0).map(|line| format!("+ {line}"));
        let gone = before.0.difference(&self.0).filter(|line| line.starts_with("system: "));
        let all = new.chain(gone.map(|line| format!("- {line}")));
        all.filter(|line| !own.iter().any(|path| line.contains(path.as_str()))).collect()
    }
}

/// The command with which the account runs a program.
pub(super) fn attacker(program: &[String]) -> Result<String> {
    let is_perl = program.first().is_some_and(|name| Path::new(name).extension().is_some_and(|it| it == "pl"));
    let interpreter = if is_perl { format!("/usr/bin/perl -I{PROGRAMS}") } else { "/bin/sh -eu".to_owned() };
    let words = shlex::try_join(program.iter().map(String::as_str))?;
    Ok(format!("systemd-run --quiet --collect --unit=attacker --uid=phoned {interpreter} {PROGRAMS}/{words}"))
}

/// The packages of a release, with the one of the account, and today's upgrader with this version.
fn packages(version: &str, of_upgrader: &str) -> Result<Vec<Package>> {
    let path = tree("harness/products/phoned/package.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut packages = Release::named(version)?.packages;
    packages.push(data::parse(&path, &text.replace("@VERSION@", version))?);
    packages.push(Package { version: of_upgrader.to_owned(), ..upgrader()? });
    Ok(packages)
}
