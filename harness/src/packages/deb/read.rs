//! Reads .deb files that were built elsewhere. They may be hostile: nothing of them is trusted before it is checked, and nothing is unpacked
//! beyond a limit.

use std::io::{self, Read, Write};
use std::path::{Component, Path};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use rayon::prelude::*;
use ruzstd::decoding::StreamingDecoder;

use super::Deb;
use super::find;

/// How much a control.tar may unpack to, in bytes.
const CONTROL: u64 = 64 << 20;

/// How much a data.tar may unpack to, in bytes.
const DATA: u64 = 4 << 30;

/// How many times the size of a data.tar it may unpack to, if it unpacks to more than [`SMALL`].
const RATIO: u64 = 500;

/// What any data.tar may unpack to, in bytes.
const SMALL: u64 = 256 << 20;

/// How much memory xz may use, in KiB: `xz -9` needs 65 MiB.
const XZ_MEMORY: u32 = 256 << 10;

/// The fields that the index of a repository adds to a control paragraph.
const OF_THE_INDEX: [&str; 6] = ["filename", "size", "md5sum", "sha1", "sha256", "sha512"];

impl Deb {
    /// Reads every .deb in and below a directory, in the order of their paths. Links to directories are not followed. Fails if there is none, and
    /// names one that is no Debian package, is not a regular file of the directory, or unpacks to more than 4 GiB.
    pub fn all_in(directory: &Path) -> Result<Vec<Self>> {
        let paths = find::debs(directory)?;
        ensure!(!paths.is_empty(), "{}: there is no .deb in this directory", directory.display());
        paths
            .par_iter()
            .map(|path| {
                let bytes = find::read(path)?;
                Self::read(bytes.into()).with_context(|| format!("{}: not a Debian package", path.display()))
            })
            .collect()
    }

    fn read(bytes: Bytes) -> Result<Self> {
        let members = members(&bytes)?;
        ensure!(
            members.first().is_some_and(|(name, content)| name == "debian-binary" && content.starts_with(b"2.")),
            "it does not begin with debian-binary of version 2"
        );
        let member = |wanted: &str| {
            let found = members.iter().filter_map(|(name, content)| Some((name.strip_prefix(wanted)?, *content)));
            let mut found = found.collect::<Vec<_>>();
            ensure!(found.len() == 1, "it has {} members {wanted}, not one", found.len());
            Ok(found.remove(0))
        };
        let (packing, control) = member("control.tar")?;
        let mut tar = Vec::new();
        unpack(packing, control, CONTROL, &mut tar).context("control.tar")?;
        let control = control_of(&tar)?;
        check_paragraph(&control)?;
        let (packing, data) = member("data.tar")?;
        let limit = DATA.min(SMALL.max(data.len() as u64 * RATIO));
        unpack(packing, data, limit, &mut io::sink()).context("data.tar")?;
        Ok(Self { bytes, control })
    }

    /// A field of its control paragraph.
    pub fn field(&self, name: &str) -> Result<&str> {
        field(&self.control, name).with_context(|| format!("a package without {name}: {:?}", self.control))
    }
}

/// A field of a control paragraph.
fn field<'a>(control: &'a str, name: &str) -> Option<&'a str> {
    control.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The members of an archive (deb(5), ar(5)): name and content.
fn members(archive: &[u8]) -> Result<Vec<(String, &[u8])>> {
    let mut rest = archive.strip_prefix(b"!<arch>\n").context("it is no ar archive")?;
    let mut members = Vec::new();
    while !rest.is_empty() {
        let (header, after) = rest.split_at_checked(60).context("it ends in the header of a member")?;
        ensure!(header.ends_with(b"`\n"), "the header of a member is damaged");
        // Some tools end the names with a slash.
        let name = String::from_utf8_lossy(&header[..16]).trim_end().trim_end_matches('/').to_owned();
        let size = String::from_utf8_lossy(&header[48..58]).trim_end().to_owned();
        let size: usize = size.parse().with_context(|| format!("the size of {name:?} is {size:?}"))?;
        let (content, after) = after
            .split_at_checked(size)
            .with_context(|| format!("{name:?} is said to have {size} bytes, but the file ends before"))?;
        members.push((name, content));
        // Members begin at even offsets.
        rest = if size % 2 == 1 { after.get(1..).unwrap_or_default() } else { after };
    }
    Ok(members)
}

/// Unpacks a member, however dpkg-deb(1) packed it. Fails if it unpacks to more than the limit, in bytes.
fn unpack(packing: &str, packed: &[u8], limit: u64, out: &mut dyn Write) -> Result<()> {
    let (mut left, mut rest) = (limit, packed);
    let mut copy = |from: &mut dyn Read| {
        let copied = io::copy(&mut from.take(left + 1), out)?;
        ensure!(copied <= left, "it unpacks from {} to more than {limit} bytes", packed.len());
        left -= copied;
        Ok(())
    };
    match packing {
        "" => copy(&mut rest),
        ".gz" => copy(&mut MultiGzDecoder::new(packed)),
        ".xz" => copy(&mut XzReader::new_mem_limit(packed, true, XZ_MEMORY)),
        ".zst" => {
            while !rest.is_empty() {
                copy(&mut StreamingDecoder::new(&mut rest)?)?;
            }
            Ok(())
        }
        other => bail!("it is packed as {other}, which the harness cannot read"),
    }
}

/// The control paragraph in a control.tar, without an empty line at its end.
fn control_of(tar: &[u8]) -> Result<String> {
    let mut control = None;
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        // Quoted, with its control characters escaped.
        let quoted = format!("{:?}", path.to_string_lossy());
        let is_below = path.components().all(|part| matches!(part, Component::CurDir | Component::Normal(_)));
        ensure!(is_below, "control.tar has {quoted}, which is not below its directory");
        let kind = entry.header().entry_type();
        ensure!(kind.is_file() || kind.is_dir(), "control.tar has {quoted}, which is neither a file nor a directory");
        if path.strip_prefix("./").unwrap_or(&path) == Path::new("control") {
            ensure!(control.is_none(), "control.tar has two files control");
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            text.truncate(text.trim_end().len());
            control = Some(text);
        }
    }
    control.context("its control.tar has no control")
}

/// Checks what a repository makes of a control paragraph: names of files, and a paragraph of its index.
fn check_paragraph(control: &str) -> Result<()> {
    for line in control.lines() {
        ensure!(!line.trim().is_empty(), "its control has several paragraphs");
        ensure!(
            !line.contains(|letter: char| letter.is_control() && letter != '\t'),
            "its control has a control character: {line:?}"
        );
        let name = line.split(':').next().unwrap_or_default().to_lowercase();
        ensure!(!OF_THE_INDEX.contains(&name.as_str()), "its control has a field of an index: {line:?}");
    }
    for name in ["Package", "Version", "Architecture"] {
        let value = field(control, name).with_context(|| format!("its control has no {name}"))?;
        let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || ".+-~:".contains(letter);
        ensure!(
            value.chars().all(is_allowed) && value.starts_with(|first: char| first.is_ascii_alphanumeric()),
            "its {name} is {value:?}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use flate2::Compression;

    use super::*;
    use crate::packages::deb::{build, gzip};
    use crate::packages::package::Package;

    /// An archive with these members: name, size in the header, content.
    fn archive(members: &[(&str, usize, &[u8])]) -> Vec<u8> {
        let mut archive = b"!<arch>\n".to_vec();
        for (name, size, content) in members {
            archive.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 100_644).bytes());
            archive.extend_from_slice(content);
            archive.extend((content.len() % 2 == 1).then_some(b'\n'));
        }
        archive
    }

    /// A tar with one entry, whose name is not checked.
    fn tar(name: &str, kind: tar::EntryType, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&header, content).unwrap();
        tar.into_inner().unwrap()
    }

    /// The error about a .deb with this control.tar and this data.tar.gz.
    fn error(control: &[u8], data: &[u8]) -> String {
        let members: [(_, _, &[u8]); 3] = [
            ("debian-binary", 4, b"2.0\n"),
            ("control.tar", control.len(), control),
            ("data.tar.gz", data.len(), data),
        ];
        format!("{:#}", Deb::read(archive(&members).into()).unwrap_err())
    }

    #[test]
    fn what_is_built_is_read() {
        let built = build(&Package::new("a", "1:2")).unwrap();
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
        assert!(error().contains("pool/bad.deb: not a Debian package: it is no ar archive"), "{}", error());
    }

    #[test]
    fn an_archive_that_lies_about_a_size_is_refused() {
        for (size, said) in
            [(2000, "is said to have 2000 bytes, but the file ends before"), (3, "it ends in the header of a member")]
        {
            let members: [(_, _, &[u8]); 2] = [("debian-binary", 4, b"2.0\n"), ("control.tar", size, b"123456")];
            let error = format!("{:#}", Deb::read(archive(&members).into()).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_member_that_unpacks_to_too_much_is_refused() {
        let control = tar("control", tar::EntryType::Regular, b"Package: a\nVersion: 1\nArchitecture: all\n");
        let bomb = |size: u64| {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
            io::copy(&mut io::repeat(0).take(size), &mut packed).unwrap();
            packed.finish().unwrap()
        };
        // gzip(1) unpacks all members of a file.
        let two = [bomb(SMALL - 1), bomb(2)].concat();
        let unpacked = |limit| unpack(".gz", &two, limit, &mut io::sink());
        let refused = format!("{:#}", unpacked(SMALL).unwrap_err());
        assert!(refused.contains("to more than 268435456 bytes"), "{refused}");
        assert!(unpacked(SMALL + 1).is_ok());
        let data = gzip(&tar("./", tar::EntryType::Directory, b""), Compression::fast()).unwrap();
        let control_bomb = bomb(CONTROL + 1);
        let members: [(_, _, &[u8]); 3] = [
            ("debian-binary", 4, b"2.0\n"),
            ("control.tar.gz", control_bomb.len(), &control_bomb),
            ("data.tar.gz", data.len(), &data),
        ];
        let refused = format!("{:#}", Deb::read(archive(&members).into()).unwrap_err());
        assert!(refused.contains("control.tar: it unpacks from"), "{refused}");
        let members = [members[0], ("control.tar", control.len(), &control), members[2]];
        assert!(Deb::read(archive(&members).into()).is_ok());
        let error = error(&control, &bomb(SMALL + 1));
        assert!(error.contains("data.tar: it unpacks from"), "{error}");
    }

    #[test]
    fn a_control_archive_that_leads_out_of_its_directory_is_refused() {
        for name in ["../control", "/control"] {
            let error = error(&tar(name, tar::EntryType::Regular, b"Package: a\n"), b"");
            assert!(error.contains(name) && error.contains("not below its directory"), "{error}");
        }
        let error = error(&tar("control", tar::EntryType::Fifo, b""), b"");
        assert!(error.contains("neither a file nor a directory"), "{error}");
    }

    #[test]
    fn a_control_paragraph_that_would_forge_an_index_is_refused() {
        let good = "Package: a\nVersion: 1\nArchitecture: all";
        assert!(check_paragraph(good).is_ok());
        for (control, said) in [
            (format!("{good}\n\nPackage: libc6"), "several paragraphs"),
            (format!("{good}\nSHA256: 00"), "a field of an index"),
            (format!("{good}\nX: \u{1b}[2J"), "a control character"),
            (good.replace(": 1", ": 1/../../2"), "its Version is \"1/../../2\""),
            (good.replace("Package: a\n", ""), "its control has no Package"),
        ] {
            let error = format!("{:#}", check_paragraph(&control).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }
}
