//! Upgrades to packages that the vendor has validated, and to others.

use anyhow::{Context as _, Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::{old_upgrader, upgradable_with, upgrader};
use harness::machines::world::World;
use harness::observe::inventory::fingerprint;
use harness::packages::deb;
use harness::packages::package::Package;
use harness::packages::release::Release;
use harness::packages::shipped::XIVO;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use upgrader::checks::validated::{Member, Set};

use crate::scenario::scenarios;

scenarios! {
    /// The self-update brings the vendor's list of validated packages first; the plan is compared with it, and so is the machine afterwards.
    Compared validated;
    /// A plan that differs in one package from the validated ones is refused where validation is required, and reported elsewhere.
    Compared validated_but_one;
    /// A version that is not validated is refused where validation is required.
    Compared validated_is_another_version;
}

/// The directory of the sets.
const SETS: &str = "/usr/share/xivo-upgrade/validated";

const REQUIRE: &[u8] = b"validated = \"require\"\n";

/// The set that the gate writes for a release.
fn set(release: &Release, debian: Debian) -> Result<Set> {
    let member = |package: &Package| {
        let sum = hex::encode(Sha256::digest(deb::build(package)?.bytes));
        let Package { name, architecture, version, .. } = package.clone();
        anyhow::Ok(Member { name, architecture, version, sha256: Some(sum) })
    };
    let packages = release.packages.iter().map(member).collect::<Result<_>>()?;
    let product = "XiVO".to_owned();
    Ok(Set { product, version: release.version.clone(), debian: debian.to_string(), packages, base: Vec::new() })
}

/// A machine at 1.2.1 with an upgrader without a set; the next version of the upgrader brings this set.
fn upgradable_to(debian: Debian, set: &Set) -> Result<World> {
    let successor = upgrader()?.file(&format!("{SETS}/{}.toml", set.debian), set.to_string().into_bytes(), 0o644);
    upgradable_with(debian, &old_upgrader(&XIVO)?, &successor)
}

/// A machine on which such an upgrader has updated itself.
fn updated_to(debian: Debian, set: &Set) -> Result<World> {
    let world = upgradable_to(debian, set)?;
    world.machine.sh("apt-get -qq update && apt-get -qq -y install xivo-upgrade 2>&1")?;
    Ok(world)
}

fn validated(debian: Debian) -> Result<String> {
    let world = upgradable_to(debian, &set(&Release::named("1.2.2")?, debian)?)?;
    world.machine.write("/etc/xivo-upgrade/config.toml", REQUIRE, 0o644)?;
    let transcript = world.upgrade(&["--yes"]).exits(0)?;
    ensure!(transcript.screen.contains("Validated by the XiVO team: "), "{transcript}");
    let same = world.upgrade(&["status", "--drift"]).exits(0)?;
    // An admin changes files by hand.
    world.machine.sh("echo 'quick fix' >>/usr/share/xivo-sounds/hello.txt
         echo '# mine' >>/etc/xivo/xivo.conf
         dpkg --force-depends --remove xivo-ctid 2>&1")?;
    let drift = world.upgrade(&["status", "--drift"]).exits(6)?;
    let document: Value = serde_json::from_str(&world.upgrade(&["status", "--drift", "--json"]).run()?.screen)?;
    ensure!(document["debian"] == debian.to_string(), "{document:#}");
    ensure!(document["changed_files"] == json!(["/usr/share/xivo-sounds/hello.txt"]), "{document:#}");
    // The packages of Debian differ from release to release.
    let shown = world.shown(&[&transcript, &same, &drift]);
    let shown = shown.replace(&format!(" on {debian}: "), " on (Debian): ");
    let lines: Vec<&str> = shown.lines().filter(|line| !line.starts_with("Not in the validated set ")).collect();
    Ok(lines.join("\n"))
}

fn validated_but_one(debian: Debian) -> Result<String> {
    let mut set = set(&Release::named("1.2.2")?, debian)?;
    let one = set.packages.iter_mut().find(|member| member.name == "xivo-provd").context("no xivo-provd")?;
    "1.2.2~rc3".clone_into(&mut one.version);
    let world = updated_to(debian, &set)?;
    world.machine.write("/etc/xivo-upgrade/config.toml", REQUIRE, 0o644)?;
    let before = fingerprint(&world.machine)?;
    let refused = world.upgrade(&["--yes"]).exits(1)?;
    ensure!(fingerprint(&world.machine)? == before, "something was touched");
    world.machine.sh("test ! -e /var/lib/xivo-upgrade/rollback")?;
    world.machine.write("/etc/xivo-upgrade/config.toml", b"", 0o644)?;
    let named = world.upgrade(&["--yes"]).run()?;
    ensure!(named.exit == 0 && named.screen.contains("xivo-provd 1.2.2 instead of 1.2.2~rc3"), "{named}");
    Ok(world.shown(&[&refused, &named]))
}

fn validated_is_another_version(debian: Debian) -> Result<String> {
    let world = updated_to(debian, &set(&Release::named("1.2.1")?, debian)?)?;
    let warned = world.upgrade(&["--dry-run"]).run()?;
    ensure!(
        warned.exit == 0 && warned.screen.contains("Not validated by the XiVO team: 1.2.2, only 1.2.1"),
        "{warned}"
    );
    world.machine.write("/etc/xivo-upgrade/config.toml", REQUIRE, 0o644)?;
    let refused = world.upgrade(&["--yes"]).exits(1)?;
    // A set with a mistake is named with its line.
    world.machine.sh(&format!("echo 'pakcages = []' >>{SETS}/{debian}.toml"))?;
    let broken = world.upgrade(&["--yes"]).run()?;
    ensure!(broken.exit == 1 && broken.screen.contains(&format!("{SETS}/{debian}.toml:")), "{broken}");
    world.machine.sh(&format!("rm {SETS}/{debian}.toml"))?;
    let none = world.upgrade(&["--yes"]).exits(1)?;
    Ok(world.shown(&[&refused, &none]))
}
