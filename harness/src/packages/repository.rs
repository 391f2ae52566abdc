//! A signed apt repository in memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use bytes::Bytes;
use flate2::Compression;
use jiff::{SignedDuration, Timestamp};
use md5::Md5;
use rayon::iter::{IntoParallelIterator as _, IntoParallelRefIterator as _, ParallelIterator as _};
use sha2::{Digest, Sha256};

use crate::packages::deb::{self, Deb, gzip};
use crate::packages::key::Key;
use crate::packages::package::Package;
use crate::packages::repository_fault::ServerFault;

/// Who publishes the repository.
pub const ORIGIN: &str = "Vendor";

/// The suite that the repository publishes.
pub const SUITE: &str = "stable";

/// The architectures it has an index for; packages for `all` are in each.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// How long ago a repository was published. A container's clock is the host's, but a second of grace costs nothing.
const AGE: SignedDuration = SignedDuration::from_secs(1);

/// How long it is valid from then on.
const VALID: SignedDuration = SignedDuration::from_hours(24);

/// An apt repository in memory: packages, indices and their signatures, as they lie below its URL.
#[derive(Debug)]
pub struct Repository {
    key: Key,
    pool: Pool,
}

/// Packages by their paths.
type Pool = BTreeMap<String, Pooled>;

/// A package in the pool.
#[derive(Debug)]
struct Pooled {
    /// What it was built of; `None` for one that was built elsewhere.
    package: Option<Package>,
    architecture: String,
    deb: Bytes,
    /// Its paragraph in `Packages`, with an empty line at its end.
    paragraph: String,
}

/// Every file of a repository: path from its root, without a leading slash, to content.
pub type RepositoryFiles = BTreeMap<String, Bytes>;

/// What a server shows of a repository.
#[derive(Debug, Default)]
pub struct Published {
    /// The files that are there.
    pub files: RepositoryFiles,
    /// Those that take their place as soon as a package other than the upgrader's is asked for.
    pub next: Option<RepositoryFiles>,
}

impl Repository {
    /// An empty repository with a key of its own.
    pub fn new() -> Result<Self> {
        Ok(Self { key: Key::generate()?, pool: Pool::new() })
    }

    /// The public key that its signatures are made with.
    pub fn public_key(&self) -> Result<Vec<u8>> {
        self.key.public()
    }

    /// Adds packages to the pool; their other versions stay there.
    pub fn add<'a>(&mut self, packages: impl IntoIterator<Item = &'a Package>) -> Result<()> {
        let is_new = |package: &&Package| {
            let there = self.pool.get(&path(package));
            there.is_none_or(|there| there.package.as_ref() != Some(*package))
        };
        let new: Vec<Package> = packages.into_iter().filter(is_new).cloned().collect();
        self.pool.extend(build(new)?);
        Ok(())
    }

    /// Takes packages that were built elsewhere, in place of all such packages that it has.
    pub fn take(&mut self, debs: &[Deb]) -> Result<()> {
        self.pool.retain(|_, pooled| pooled.package.is_some());
        let taken = debs.par_iter().map(|deb| {
            let [name, version, architecture] = ["Package", "Version", "Architecture"].map(|name| deb.field(name));
            let architecture = architecture?.to_owned();
            let path = format!("pool/{}_{}_{architecture}.deb", name?, version?.replace(':', "%3a"));
            Ok((path.clone(), Pooled::new(&path, architecture, deb, None)))
        });
        self.pool.extend(taken.collect::<Result<Pool>>()?);
        Ok(())
    }

    /// Indexes and signs what is in the pool, so that this is wrong with it.
    pub fn publish(&self, fault: Option<ServerFault>) -> Result<Published> {
        let good = || files(&self.pool, &self.key, AGE);
        let mut next = None;
        let files = match fault {
            Some(ServerFault::Expired) => files(&self.pool, &self.key, VALID * 3)?,
            Some(ServerFault::NotYetValid) => files(&self.pool, &self.key, -VALID * 2)?,
            Some(ServerFault::OtherKey) => files(&self.pool, &Key::generate()?, AGE)?,
            Some(ServerFault::Unsigned) => without(good()?, &["/InRelease", "/Release.gpg"]),
            Some(ServerFault::ByHashMissing) => without(good()?, &["/by-hash/"]),
            Some(ServerFault::HalfSynced) => {
                let mut files = without(good()?, &["/by-hash/"]);
                files.extend(without(self.next()?, &["Release", "/by-hash/", "pool/"]));
                files
            }
            Some(ServerFault::IndexChanges) => {
                next = Some(self.next()?);
                good()?
            }
            _ => good()?,
        };
        Ok(Published { files, next })
    }

    /// What the publisher publishes next: a newer version of every package, and none of these.
    fn next(&self) -> Result<RepositoryFiles> {
        let newer = |version: &str| format!("{version}+1");
        let ours = || self.pool.values().filter_map(|pooled| pooled.package.as_ref());
        let mut packages: Vec<Package> = ours().cloned().collect();
        for package in &mut packages {
            for Package { version, .. } in ours() {
                for relation in package.control.values_mut() {
                    *relation = relation.replace(&format!("(= {version})"), &format!("(= {})", newer(version)));
                }
            }
            package.version = newer(&package.version);
        }
        files(&build(packages)?, &self.key, AGE)
    }
}

/// Where a package lies in the pool.
fn path(package: &Package) -> String {
    format!("pool/{}", package.file_name())
}

/// Builds packages, on all cores.
fn build(packages: Vec<Package>) -> Result<Pool> {
    packages
        .into_par_iter()
        .map(|package| {
            let path = path(&package);
            let built = deb::build(&package)?;
            let architecture = package.architecture.clone();
            Ok((path.clone(), Pooled::new(&path, architecture, &built, Some(package))))
        })
        .collect()
}

impl Pooled {
    fn new(path: &str, architecture: String, Deb { bytes, control }: &Deb, package: Option<Package>) -> Self {
        let Sums { size, md5, sha256 } = Sums::of(bytes);
        let paragraph = format!("{control}\nFilename: {path}\nSize: {size}\nMD5sum: {md5}\nSHA256: {sha256}\n\n");
        Self { package, architecture, deb: bytes.clone(), paragraph }
    }
}

/// The files of a repository with these packages, signed with this key, as if it had been published this long ago.
fn files(pool: &Pool, key: &Key, age: SignedDuration) -> Result<RepositoryFiles> {
    let mut files: RepositoryFiles = pool.iter().map(|(path, pooled)| (path.clone(), pooled.deb.clone())).collect();
    let mut indices = BTreeMap::new();
    for architecture in ARCHITECTURES {
        let fits = |pooled: &&Pooled| ["all", architecture].contains(&pooled.architecture.as_str());
        let packages: String = pool.values().filter(fits).map(|pooled| pooled.paragraph.as_str()).collect();
        let directory = format!("main/binary-{architecture}");
        let packed = gzip(packages.as_bytes(), Compression::fast())?;
        for (name, content) in [("Packages", packages.into_bytes()), ("Packages.gz", packed)] {
            let sums = Sums::of(&content);
            let content = Bytes::from(content);
            files.insert(format!("dists/{SUITE}/{directory}/by-hash/SHA256/{}", sums.sha256), content.clone());
            files.insert(format!("dists/{SUITE}/{directory}/{name}"), content);
            indices.insert(format!("{directory}/{name}"), sums);
        }
    }
    let release = release(&indices, Timestamp::now() - age)?;
    files.insert(format!("dists/{SUITE}/InRelease"), key.cleartext(&release)?.into());
    files.insert(format!("dists/{SUITE}/Release.gpg"), key.detached(&release)?.into());
    files.insert(format!("dists/{SUITE}/Release"), release.into());
    Ok(files)
}

/// Files without those in whose paths one of these is.
fn without(mut files: RepositoryFiles, these: &[&str]) -> RepositoryFiles {
    files.retain(|path, _| !these.iter().any(|part| path.contains(part)));
    files
}

/// What an index says of a file.
struct Sums {
    size: usize,
    md5: String,
    sha256: String,
}

impl Sums {
    fn of(content: &[u8]) -> Self {
        Self {
            size: content.len(),
            md5: hex::encode(Md5::digest(content)),
            sha256: hex::encode(Sha256::digest(content)),
        }
    }
}

/// The `Release` file: what the suite is, and the sums of each index.
fn release(indices: &BTreeMap<String, Sums>, date: Timestamp) -> Result<String> {
    let rfc2822 = |time: Timestamp| time.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string();
    let mut release = format!(
        "Origin: {ORIGIN}\nLabel: {ORIGIN}\nSuite: {SUITE}\nCodename: {SUITE}\nDate: {}\nValid-Until: {}\n\
         Acquire-By-Hash: yes\nArchitectures: {}\nComponents: main\nDescription: test repository\n",
        rfc2822(date),
        rfc2822(date + VALID),
        ARCHITECTURES.join(" "),
    );
    writeln!(release, "MD5Sum:")?;
    for (path, Sums { size, md5, .. }) in indices {
        writeln!(release, " {md5} {size} {path}")?;
    }
    writeln!(release, "SHA256:")?;
    for (path, Sums { size, sha256, .. }) in indices {
        writeln!(release, " {sha256} {size} {path}")?;
    }
    Ok(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of the repository.
    fn text(files: &RepositoryFiles, path: &str) -> String {
        String::from_utf8(files[&format!("dists/stable/{path}")].to_vec()).unwrap()
    }

    /// A repository of one package that another one needs in just this version.
    fn repository() -> Repository {
        let needs = Package::new("b", "1:2-3").control("Depends", "a (= 1), c (>= 1)");
        let mut repository = Repository::new().unwrap();
        repository.add([&Package::new("a", "1"), &needs]).unwrap();
        repository
    }

    #[test]
    fn every_index_is_there_by_name_and_by_hash_and_in_the_release() {
        let mut repository = repository();
        let mut native = Package::new("d", "1");
        native.architecture = "arm64".to_owned();
        repository.add([&native]).unwrap();
        let files = repository.publish(None).unwrap().files;
        let packages = text(&files, "main/binary-amd64/Packages");
        assert!(packages.contains("Package: a\n") && !packages.contains("Package: d\n"), "{packages}");
        let hash = hex::encode(Sha256::digest(&packages));
        assert_eq!(text(&files, &format!("main/binary-amd64/by-hash/SHA256/{hash}")), packages);
        let line = format!(" {hash} {} main/binary-amd64/Packages\n", packages.len());
        assert!(text(&files, "Release").contains(&line));
        assert!(files.contains_key("pool/a_1_all.deb"));
        assert!(text(&files, "InRelease").contains(&text(&files, "Release")));
    }

    #[test]
    fn an_unsigned_repository_has_no_signatures() {
        let files = repository().publish(Some(ServerFault::Unsigned)).unwrap().files;
        let unsigned: Vec<&str> = files.keys().filter(|path| path.contains("Rel")).map(String::as_str).collect();
        assert_eq!(unsigned, ["dists/stable/Release"]);
    }

    #[test]
    fn dates_are_as_wrong_as_they_should_be() {
        let valid_until = |fault| {
            let release = text(&repository().publish(fault).unwrap().files, "Release");
            let (_, date) = release.split_once("Valid-Until: ").unwrap();
            let date = date.lines().next().unwrap().replace("UTC", "+0000");
            let date = Timestamp::strptime("%a, %d %b %Y %H:%M:%S %z", date).unwrap();
            (date - Timestamp::now()).total(jiff::Unit::Hour).unwrap().round()
        };
        for (fault, hours) in
            [(None, 24.0), (Some(ServerFault::Expired), -48.0), (Some(ServerFault::NotYetValid), 72.0)]
        {
            assert!((valid_until(fault) - hours).abs() < 0.5, "{fault:?}");
        }
    }

    #[test]
    fn by_hash_is_missing_and_in_the_middle_of_a_sync_names_are_those_of_the_next_index() {
        let repository = repository();
        let missing = repository.publish(Some(ServerFault::ByHashMissing)).unwrap().files;
        let half = repository.publish(Some(ServerFault::HalfSynced)).unwrap().files;
        for files in [&missing, &half] {
            assert!(!files.keys().any(|path| path.contains("by-hash")));
            assert!(files.contains_key("pool/a_1_all.deb"));
        }
        let packages = "main/binary-amd64/Packages";
        let fits = |files: &RepositoryFiles| {
            text(files, "Release").contains(&Sums::of(text(files, packages).as_bytes()).sha256)
        };
        assert!(fits(&missing) && !fits(&half));
        assert!(text(&half, packages).contains("Version: 1+1\n"));
    }

    #[test]
    fn what_comes_next_is_newer_and_fits_together() {
        let Published { files, next } = repository().publish(Some(ServerFault::IndexChanges)).unwrap();
        assert!(files.contains_key("pool/a_1_all.deb"));
        let next = next.unwrap();
        let debs: Vec<&str> = next.keys().filter(|path| path.starts_with("pool/")).map(String::as_str).collect();
        assert_eq!(debs, ["pool/a_1+1_all.deb", "pool/b_2-3+1_all.deb"]);
        assert!(text(&next, "main/binary-amd64/Packages").contains("Depends: a (= 1+1), c (>= 1)\n"));
    }
}
