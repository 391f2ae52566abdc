//! Reads .deb files that were built elsewhere.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use flate2::read::GzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use super::Deb;
use crate::data;

impl Deb {
    /// Reads every .deb in and below a directory, in the order of their paths. Fails if there is none, and names one that is no Debian
    /// package.
    pub fn all_in(directory: &Path) -> Result<Vec<Self>> {
        let paths = data::files_below(directory, &["deb"])?;
        ensure!(!paths.is_empty(), "{}: there is no .deb in this directory", directory.display());
        let read = |path: &PathBuf| {
            let bytes = fs::read(path).with_context(|| path.display().to_string())?;
            Self::read(bytes.into()).with_context(|| format!("{}: not a Debian package", path.display()))
        };
        paths.iter().map(read).collect()
    }

    fn read(bytes: Bytes) -> Result<Self> {
        Ok(Self { control: control_of(&control_archive(&bytes)?)?, bytes })
    }

    /// A field of its control paragraph.
    pub fn field(&self, name: &str) -> Result<&str> {
        let field = self.control.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        field.map(str::trim).with_context(|| format!("a package without {name}: {:?}", self.control))
    }
}

/// The control.tar of a .deb, however dpkg-deb(1) packed it.
fn control_archive(deb: &[u8]) -> Result<Vec<u8>> {
    let mut archive = ar::Archive::new(deb);
    while let Some(member) = archive.next_entry() {
        let mut member = member?;
        // Some tools end the names with a slash.
        let name = String::from_utf8_lossy(member.header().identifier()).trim_end_matches('/').to_owned();
        let Some(packing) = name.strip_prefix("control.tar") else { continue };
        let mut tar = Vec::new();
        match packing {
            "" => member.read_to_end(&mut tar)?,
            ".gz" => GzDecoder::new(member).read_to_end(&mut tar)?,
            ".xz" => XzReader::new(member, true).read_to_end(&mut tar)?,
            ".zst" => StreamingDecoder::new(member)?.read_to_end(&mut tar)?,
            other => bail!("its control.tar is packed as {other}, which the harness cannot read"),
        };
        return Ok(tar);
    }
    bail!("it has no control.tar")
}

/// The control paragraph in a control.tar, without an empty line at its end.
fn control_of(tar: &[u8]) -> Result<String> {
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        if entry.path()?.strip_prefix("./").unwrap_or(&entry.path()?) == Path::new("control") {
            let mut control = String::new();
            entry.read_to_string(&mut control)?;
            control.truncate(control.trim_end().len());
            return Ok(control);
        }
    }
    bail!("its control.tar has no control")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::package::Package;

    #[test]
    fn what_is_built_is_read() {
        let built = super::super::build(&Package::new("a", "1:2")).unwrap();
        let read = Deb::read(built.bytes.clone()).unwrap();
        assert_eq!(read.control, built.control);
        assert_eq!(read.field("Version").unwrap(), "1:2");
        assert!(read.field("Pre-Depends").is_err());
    }

    #[test]
    fn what_is_no_package_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = || format!("{:#}", Deb::all_in(directory.path()).unwrap_err());
        assert!(error().contains("there is no .deb in this directory"), "{}", error());
        let below = directory.path().join("pool");
        fs::create_dir(&below).unwrap();
        fs::write(below.join("bad.deb"), "<html>").unwrap();
        assert!(error().contains("pool/bad.deb: not a Debian package"), "{}", error());
    }
}
