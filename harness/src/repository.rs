use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use flate2::Compression;
use jiff::{SignedDuration, Timestamp};
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::deb::{self, Deb, gzip};
use crate::key::Key;
use crate::package::Package;

/// The suite that the repository publishes.
pub const SUITE: &str = "stable";

/// The architectures it has an index for; packages for `all` are in each.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// How long ago a repository was published. A container's clock is the host's, but a second of grace costs nothing.
const AGE: SignedDuration = SignedDuration::from_secs(1);

/// An apt repository in memory: packages, indices and their signatures, as they lie below its URL.
#[derive(Debug)]
pub struct Repository {
    key: Key,
    pool: BTreeMap<String, (Package, Deb)>,
    age: SignedDuration,
}

/// Every file of a repository: path from its root, without a leading slash, to content.
pub type Files = BTreeMap<String, Vec<u8>>;

impl Repository {
    /// An empty repository with a key of its own.
    pub fn new() -> Result<Self> {
        Ok(Self { key: Key::generate()?, pool: BTreeMap::new(), age: AGE })
    }

    /// The public key that its signatures are made with.
    pub fn public_key(&self) -> Result<Vec<u8>> {
        self.key.public()
    }

    /// Dates what is published from now on as if it had been published this long ago; in the future if that is negative. It is
    /// valid for a day from then on.
    pub fn set_age(&mut self, age: SignedDuration) {
        self.age = age;
    }

    /// Adds a package to the pool; its other versions stay there.
    pub fn add(&mut self, package: &Package) -> Result<()> {
        let path = format!("pool/{}", package.file_name());
        if self.pool.get(&path).is_none_or(|(there, _)| there != package) {
            self.pool.insert(path, (package.clone(), deb::build(package)?));
        }
        Ok(())
    }

    /// Indexes and signs what is in the pool.
    ///
    /// # Errors
    /// If signing fails.
    pub fn publish(&self) -> Result<Files> {
        let mut files: Files = self.pool.iter().map(|(path, (_, deb))| (path.clone(), deb.bytes.clone())).collect();
        let mut indices = BTreeMap::new();
        for architecture in ARCHITECTURES {
            let packages = self.index(architecture)?;
            let directory = format!("main/binary-{architecture}");
            indices.insert(format!("{directory}/Packages.gz"), gzip(packages.as_bytes(), Compression::fast())?);
            indices.insert(format!("{directory}/Packages"), packages.into_bytes());
        }
        let release = release(&indices, Timestamp::now() - self.age)?;
        for (path, content) in indices {
            let (directory, _) = path.rsplit_once('/').unwrap_or(("", &path));
            let hash = hex::encode(Sha256::digest(&content));
            files.insert(format!("dists/{SUITE}/{directory}/by-hash/SHA256/{hash}"), content.clone());
            files.insert(format!("dists/{SUITE}/{path}"), content);
        }
        files.insert(format!("dists/{SUITE}/InRelease"), self.key.cleartext(&release)?);
        files.insert(format!("dists/{SUITE}/Release.gpg"), self.key.detached(&release)?);
        files.insert(format!("dists/{SUITE}/Release"), release.into_bytes());
        Ok(files)
    }

    /// The `Packages` index of an architecture.
    fn index(&self, architecture: &str) -> Result<String> {
        let mut index = String::new();
        for (path, (_, Deb { bytes, control })) in &self.pool {
            let fits = |line: &str| line == "Architecture: all" || line == format!("Architecture: {architecture}");
            if !control.lines().any(fits) {
                continue;
            }
            writeln!(index, "{control}\nFilename: {path}\nSize: {}", bytes.len())?;
            writeln!(index, "MD5sum: {}", hex::encode(Md5::digest(bytes)))?;
            writeln!(index, "SHA256: {}\n", hex::encode(Sha256::digest(bytes)))?;
        }
        Ok(index)
    }
}

/// The `Release` file: what the suite is, and the hash of each index.
fn release(indices: &BTreeMap<String, Vec<u8>>, date: Timestamp) -> Result<String> {
    let rfc2822 = |time: Timestamp| time.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string();
    let mut release = format!(
        "Origin: Vendor\nLabel: Vendor\nSuite: {SUITE}\nCodename: {SUITE}\nDate: {}\nValid-Until: {}\n\
         Acquire-By-Hash: yes\nArchitectures: {}\nComponents: main\nDescription: test repository\n",
        rfc2822(date),
        rfc2822(date + SignedDuration::from_hours(24)),
        ARCHITECTURES.join(" "),
    );
    writeln!(release, "MD5Sum:")?;
    for (path, content) in indices {
        writeln!(release, " {} {} {path}", hex::encode(Md5::digest(content)), content.len())?;
    }
    writeln!(release, "SHA256:")?;
    for (path, content) in indices {
        writeln!(release, " {} {} {path}", hex::encode(Sha256::digest(content)), content.len())?;
    }
    Ok(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_there_by_name_and_by_hash_and_in_the_release() {
        let mut repository = Repository::new().unwrap();
        repository.add(&Package::new("a", "1")).unwrap();
        let mut native = Package::new("b", "1");
        native.architecture = "arm64".to_owned();
        repository.add(&native).unwrap();
        let files = repository.publish().unwrap();
        let text = |path: &str| String::from_utf8(files[path].clone()).unwrap();
        let packages = text("dists/stable/main/binary-amd64/Packages");
        assert!(packages.contains("Package: a\n") && !packages.contains("Package: b\n"), "{packages}");
        let hash = hex::encode(Sha256::digest(&packages));
        assert_eq!(text(&format!("dists/stable/main/binary-amd64/by-hash/SHA256/{hash}")), packages);
        assert!(
            text("dists/stable/Release").contains(&format!(" {hash} {} main/binary-amd64/Packages\n", packages.len()))
        );
        assert!(files.contains_key("pool/a_1_all.deb"));
        assert!(text("dists/stable/InRelease").contains(&text("dists/stable/Release")));
    }
}
