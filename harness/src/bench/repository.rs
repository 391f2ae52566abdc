//! Measures how long it takes to build, index and sign a repository.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::RngCore as _;

use super::sheet::{Sheet, median};
use crate::machines::image::{Debian, archive};
use crate::machines::machine::Storage;
use crate::machines::product_machine;
use crate::machines::world::World;
use crate::packages::deb;
use crate::packages::package::Package;
use crate::packages::repository::Repository;

/// How many packages the repository has.
const PACKAGES: usize = 1000;

/// How often it is made by each.
const RUNS: usize = 3;

/// The limit for ours, in seconds.
const LIMIT: f64 = 2.0;

/// Debian's tools for the same.
const TOOLS: [&str; 3] = ["apt-utils", "gpg", "gpg-agent"];

/// Unpacks the packages, so that the others build them from the same files, and makes a key.
const PREPARE: &str = "
mkdir -p /root/trees && cd /root/trees
tar -xf /root/debs.tar --one-top-level=/root/debs
ls /root/debs | xargs -P $(nproc) -I{} dpkg-deb --raw-extract /root/debs/{} /root/trees/{}
gpg --batch --quiet --passphrase '' --quick-generate-key repository@xivo.example ed25519 sign never";

/// Builds, indexes and signs them, as quickly as Debian's tools can on all cores: the least compression, like ours, and the same
/// indices in the same places. Says how long that took in nanoseconds by the machine's own clock, and how many packages the
/// repository has.
const MAKE: &str = "
rm -rf /root/repository; mkdir -p /root/repository/pool; cd /root/repository
began=$(date +%s%N)
ls /root/trees | xargs -P $(nproc) -I{} dpkg-deb -Zgzip -z1 --root-owner-group --build /root/trees/{} pool/{} >/dev/null
for architecture in amd64 arm64; do
    directory=dists/stable/main/binary-$architecture
    mkdir -p $directory/by-hash/SHA256
    apt-ftparchive --arch $architecture packages pool >$directory/Packages
    gzip -1 -k $directory/Packages
    for index in $directory/Packages $directory/Packages.gz; do
        ln $index $directory/by-hash/SHA256/$(sha256sum $index | cut -d' ' -f1)
    done
done
apt-ftparchive -o APT::FTPArchive::Release::Suite=stable release dists/stable >Release
mv Release dists/stable
gpg --batch --quiet --clearsign --output dists/stable/InRelease dists/stable/Release
gpg --batch --quiet --armor --detach-sign --output dists/stable/Release.gpg dists/stable/Release
echo $(($(date +%s%N) - began)) $(grep -c ^Package: dists/stable/main/binary-amd64/Packages)";

/// Compares how long our repository takes to be built, indexed and signed with what Debian's own tools take for the same packages.
pub(super) fn measure(debian: Debian, sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title(&format!(
        "A repository of {PACKAGES} packages, built, indexed and signed, beside dpkg-deb, apt-ftparchive and gpg"
    ))?;
    let packages: Vec<Package> = (0..PACKAGES).map(package).collect();
    let world = product_machine::with_debian_packages(Storage::Layers, debian, "repository-tools", &TOOLS, "")?;
    let debs = packages.iter().map(|package| Ok((package.file_name(), deb::build(package)?.bytes)));
    let debs = debs.collect::<Result<Vec<_>>>()?;
    let debs = archive(debs.iter().map(|(name, bytes)| (name.clone(), bytes.as_ref(), 0o644)))?;
    world.machine.write("/root/debs.tar", &debs, 0o644)?;
    world.machine.sh(PREPARE)?;
    let mut pairs = Vec::new();
    for _ in 0..RUNS {
        pairs.push([theirs(&world)?, ours(&packages)?]);
    }
    let times = pairs.iter().map(|pair| pair[1].as_secs_f64()).collect();
    sheet.pairs(["Debian's tools", "ours"], &pairs, Some(1.0))?;
    sheet.limited("ours", median(times), LIMIT, "s")
}

/// A package like most are: a program, half of which cannot be compressed, a text, a conffile, and a maintainer script.
fn package(number: usize) -> Package {
    let mut program = vec![0; 16_000];
    rand::thread_rng().fill_bytes(&mut program[..8000]);
    let name = format!("package-{number}");
    Package::new(&name, "1.0")
        .file(&format!("/usr/bin/{name}"), program, 0o755)
        .file(&format!("/usr/share/doc/{name}/README"), "What this is about.\n".repeat(100), 0o644)
        .conffile(&format!("/etc/{name}/{name}.conf"), format!("name = {name}\n"))
        .control("Depends", "package-0 (>= 1.0)")
        .script("postinst", "#!/bin/sh\nset -e\nexit 0\n")
}

fn ours(packages: &[Package]) -> Result<Duration> {
    let mut repository = Repository::new()?;
    let start = Instant::now();
    repository.add(packages)?;
    let published = repository.publish(None)?;
    let took = start.elapsed();
    let count = published.files.keys().filter(|path| path.starts_with("pool/")).count();
    ensure!(count == PACKAGES, "ours has {count} packages");
    Ok(took)
}

fn theirs(world: &World) -> Result<Duration> {
    let said = world.machine.sh(MAKE)?;
    let (time, count) = said.trim().split_once(' ').with_context(|| said.clone())?;
    ensure!(count.parse() == Ok(PACKAGES), "theirs has {count} packages");
    Ok(Duration::from_nanos(time.parse()?))
}
