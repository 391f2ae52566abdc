//! Builds .deb files.

mod find;
mod read;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use flate2::{Compression, GzBuilder};
use md5::{Digest as _, Md5};
use tar::{EntryType, Header};

use crate::packages::package::Package;

/// The time of every file in every package, so that the same data makes the same bytes: 2012-01-01T00:00:00Z.
const MTIME: u32 = 1_325_376_000;

/// Packages with at least this many bytes of files are cached: only the upgrader's is.
const WORTH_KEEPING: usize = 1_000_000;

/// The default maintainer.
const MAINTAINER: &str = "XiVO upgrade team <upgrade@xivo.example>";

/// A built .deb and the paragraph that describes it in `Packages`.
#[derive(Debug, Clone)]
pub struct Deb {
    /// The archive as deb(5) describes it: `debian-binary`, `control.tar.gz`, `data.tar.gz`.
    pub bytes: Bytes,
    /// Its control paragraph, one `Field: value` a line, without an empty line at its end.
    pub control: String,
}

/// Builds a .deb, or gives the one that was built of the same data before. Fails if a path is not absolute.
pub fn build(package: &Package) -> Result<Deb> {
    /// A world needs the same packages for its machine's image and for its repository.
    static BUILT: Mutex<Vec<(Package, Deb)>> = Mutex::new(Vec::new());
    // The small ones are built sooner than found.
    if package.files.iter().map(|file| file.content.len()).sum::<usize>() < WORTH_KEEPING {
        return build_uncached(package);
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, deb)) = built.iter().find(|(of, _)| of == package) {
        return Ok(deb.clone());
    }
    let deb = build_uncached(package)?;
    built.push((package.clone(), deb.clone()));
    Ok(deb)
}

fn build_uncached(package: &Package) -> Result<Deb> {
    let control = control(package)?;
    let data = data(package).with_context(|| format!("the files of {}", package.name))?;
    let mut archive = ar::Builder::new(Vec::new());
    for (name, content) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", control_archive(package, &control)?),
        ("data.tar.gz", data),
    ] {
        let mut header = ar::Header::new(name.as_bytes().to_vec(), content.len() as u64);
        header.set_mode(0o100_644);
        header.set_mtime(u64::from(MTIME));
        archive.append(&header, content.as_slice())?;
    }
    Ok(Deb { bytes: archive.into_inner()?.into(), control })
}

/// The control paragraph (deb-control(5)).
fn control(package: &Package) -> Result<String> {
    let mut control = String::new();
    let size: usize = package.files.iter().map(|file| file.content.len().div_ceil(1024)).sum();
    let mut field = |name: &str, value: &str| -> Result<()> {
        ensure!(
            !value.is_empty() && !name.contains([':', '\n']),
            "package {:?}: field {name:?} is {value:?}",
            package.name
        );
        writeln!(control, "{name}: {}", value.replace("\n\n", "\n.\n").replace('\n', "\n "))?;
        Ok(())
    };
    field("Package", &package.name)?;
    field("Version", &package.version)?;
    field("Architecture", &package.architecture)?;
    field("Maintainer", package.control.get("Maintainer").map_or(MAINTAINER, String::as_str))?;
    field("Installed-Size", &size.to_string())?;
    field("Section", &package.section)?;
    field("Priority", "optional")?;
    for (name, value) in package.control.iter().filter(|(name, _)| *name != "Maintainer") {
        field(name, value)?;
    }
    field("Description", &package.description)?;
    control.truncate(control.trim_end().len());
    Ok(control)
}

fn control_archive(package: &Package, control: &str) -> Result<Vec<u8>> {
    let mut tar = Tar::new();
    tar.directory("./", 0o755)?;
    tar.file("./control", format!("{control}\n").as_bytes(), 0o644)?;
    let conffiles: String =
        package.files.iter().filter(|file| file.conffile).fold(String::new(), |list, file| list + &file.path + "\n");
    if !conffiles.is_empty() {
        tar.file("./conffiles", conffiles.as_bytes(), 0o644)?;
    }
    let mut sums = String::new();
    for file in &package.files {
        writeln!(sums, "{}  {}", hex::encode(Md5::digest(&file.content)), file.path.trim_start_matches('/'))?;
    }
    tar.file("./md5sums", sums.as_bytes(), 0o644)?;
    for (name, script) in &package.scripts {
        let mode = if ["triggers", "templates"].contains(&name.as_str()) { 0o644 } else { 0o755 };
        tar.file(&format!("./{name}"), script.as_bytes(), mode)?;
    }
    tar.finish()
}

fn data(package: &Package) -> Result<Vec<u8>> {
    let mut tar = Tar::new();
    let paths = package.files.iter().map(|file| &file.path).chain(package.links.keys());
    let mut directories = BTreeSet::from(["./".to_owned()]);
    let own = package.directories.iter().chain(&package.private_directories);
    for (path, own) in paths.map(|path| (path, false)).chain(own.map(|path| (path, true))) {
        ensure!(path.starts_with('/') && !path.ends_with('/'), "{path:?} is not an absolute path");
        let parents = path.match_indices('/').skip(1).map(|(end, _)| &path[..end]);
        directories.extend(parents.chain(own.then_some(path.as_str())).map(|parent| format!(".{parent}/")));
    }
    for directory in directories {
        let path = directory.trim_matches(['.', '/']);
        let is_private = package.private_directories.iter().any(|private| private.trim_matches('/') == path);
        tar.directory(&directory, if is_private { 0o700 } else { 0o755 })?;
    }
    for file in &package.files {
        tar.file(&format!(".{}", file.path), &file.content, file.mode)?;
    }
    for (path, target) in &package.links {
        tar.link(&format!(".{path}"), target)?;
    }
    tar.finish()
}

/// Packs bytes so that the same bytes are always packed the same: without a name and a time.
pub fn gzip(bytes: &[u8], level: Compression) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().write(Vec::new(), level);
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

/// A gzipped tar in which everything belongs to root.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, size: usize, mode: u32) -> Result<Header> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_mtime(u64::from(MTIME));
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("root")?;
        header.set_groupname("root")?;
        Ok(header)
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = Self::header(EntryType::Directory, 0, mode)?;
        Ok(self.0.append_data(&mut header, path, std::io::empty())?)
    }

    fn file(&mut self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut header = Self::header(EntryType::Regular, content.len(), mode)?;
        Ok(self.0.append_data(&mut header, path, content)?)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = Self::header(EntryType::Symlink, 0, 0o777)?;
        Ok(self.0.append_link(&mut header, path, target)?)
    }

    fn finish(self) -> Result<Vec<u8>> {
        gzip(&self.0.into_inner()?, Compression::fast())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_data_makes_the_same_bytes() {
        let package = Package::new("a", "1.0").file("/etc/a.conf", "x", 0o640);
        assert_eq!(build(&package).unwrap().bytes, build(&package).unwrap().bytes);
    }

    #[test]
    fn the_control_paragraph_has_the_fields_of_the_data() {
        let package =
            Package::new("a", "1:1.0").file("/usr/bin/a", vec![0; 1025], 0o755).control("Depends", "b (>= 2)");
        let package = Package { description: "synopsis\nlong\n\nlonger".to_owned(), ..package };
        assert_eq!(
            build(&package).unwrap().control,
            "Package: a\nVersion: 1:1.0\nArchitecture: all\nMaintainer: XiVO upgrade team <upgrade@xivo.example>\n\
             Installed-Size: 2\nSection: misc\nPriority: optional\nDepends: b (>= 2)\n\
             Description: synopsis\n long\n .\n longer"
        );
        assert_eq!(package.file_name(), "a_1.0_all.deb");
    }

    #[test]
    fn a_path_that_is_not_absolute_is_refused() {
        let error = build(&Package::new("a", "1").file("etc/a", "", 0o644)).unwrap_err();
        assert_eq!(format!("{error:#}"), "the files of a: \"etc/a\" is not an absolute path");
    }
}
