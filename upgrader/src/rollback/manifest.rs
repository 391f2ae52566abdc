//! The manifest of rollback data: its form, reading and writing it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Scope;
use super::content::content;
use super::metadata::{PathEntry, RawPath, is_of_absent};
use crate::exit::Failure;
use crate::files::Place;
use crate::model::package::PackageName;
use crate::system::remove_file;

/// The version of the format. It grows when older upgraders would misread what newer ones write.
const VERSION: u32 = 1;

/// A manifest: JSON, one value a line. A header, an entry for each path, a trailer. Unknown keys are passed over.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) header: Header,
    pub(super) lines: BTreeMap<PathBuf, Line>,
}

/// The first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) version: u32,
    /// The packages that the upgrade changes.
    pub(super) packages: Vec<PackageName>,
    /// The paths that the product declares.
    pub(super) declared: Vec<RawPath>,
    /// The stores, by the numbers that entries have for them.
    pub(super) places: Vec<RawPath>,
}

/// A line between: what is at a path, and where its content is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) path: RawPath,
    #[serde(flatten)]
    pub(super) entry: PathEntry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stored: Option<Stored>,
}

/// Where a file's content is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) how: SaveMethod,
    /// The number of the place in the header's list.
    pub(super) place: usize,
    /// The name there. What has the same is one inode under several names.
    pub(super) object: u64,
}

/// How a file's content is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SaveMethod {
    /// As another name of the file's inode.
    Link,
    /// As a file that shares its blocks.
    Clone,
    /// As a copy with this SHA-256 sum, in hex.
    Copy { sha256: String },
}

/// The last line: without it, or with a sum of all before that is another, the manifest is damaged.
#[derive(Debug, Serialize, Deserialize)]
struct Trailer {
    entries: usize,
    sha256: String,
}

impl Header {
    pub(super) fn new(scope: &Scope, places: &[PathBuf]) -> Self {
        let raw = |paths: &[PathBuf]| paths.iter().map(|path| RawPath::from(path.as_path())).collect();
        Self { version: VERSION, packages: scope.packages.clone(), declared: raw(&scope.declared), places: raw(places) }
    }
}

impl Manifest {
    /// Writes it so that only a complete one is ever under its name.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let write = || -> Result<()> {
            let new = path.with_extension("new");
            remove_file(&new)?;
            let place = Place::of(&new)?;
            let mut writer = Writer { file: BufWriter::new(place.create()?), digest: Sha256::new() };
            writer.line(&self.header)?;
            for line in self.lines.values() {
                writer.line(line)?;
            }
            let sha256 = format!("{:x}", writer.digest.clone().finalize());
            writer.line(&Trailer { entries: self.lines.len(), sha256 })?;
            writer.file.into_inner()?.sync_all()?;
            place.rename_to(&Place::of(path)?)?;
            Ok(place.sync_directory()?)
        };
        write().with_context(|| path.display().to_string())
    }

    /// Reads it; `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let text = match content(path) {
            Err(error) if is_of_absent(&error) => return Ok(None),
            text => text?,
        };
        match Self::parse(&text) {
            Err(error) if error.is::<Failure>() => Err(error),
            manifest => Ok(Some(manifest.with_context(|| {
                Failure::new(format!("{}: the record of the machine before the upgrade is damaged", path.display()))
                    .remedy("A rollback is impossible. Restore a backup, or repair the upgrade.")
            })?)),
        }
    }

    fn parse(text: &[u8]) -> Result<Self> {
        let body = text.strip_suffix(b"\n").context("it is truncated")?;
        let mut lines = (1..).zip(body.split(|byte| *byte == b'\n')).collect::<Vec<_>>().into_iter();
        let (number, first) = lines.next().context("it is empty")?;
        // Only the field `version` is known of another version.
        let Version { version } = value(number, first)?;
        if version != VERSION {
            let failure = Failure::new(format!("the record of the machine before the upgrade has version {version}"));
            return Err(failure
                .remedy("Another version of the upgrader wrote it. Use that version to roll back.")
                .into());
        }
        let (number, last) = lines.next_back().context("it has no last line")?;
        let trailer: Trailer = value(number, last)?;
        let before = &text[..body.len() - last.len()];
        ensure!(format!("{:x}", Sha256::digest(before)) == trailer.sha256, "its sum is wrong");
        let header = value(1, first)?;
        let mut entries = BTreeMap::new();
        for (number, text) in lines {
            let line: Line = value(number, text)?;
            entries.insert(line.path.path().to_owned(), line);
        }
        ensure!(entries.len() == trailer.entries, "it has {} entries instead of {}", entries.len(), trailer.entries);
        Ok(Self { header, lines: entries })
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn value<T: DeserializeOwned>(number: u32, line: &[u8]) -> Result<T> {
    serde_json::from_slice(line).map_err(|error| anyhow!("line {number}: {error}"))
}

struct Writer {
    file: BufWriter<File>,
    digest: Sha256,
}

impl Writer {
    fn line<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.digest.update(&line);
        Ok(self.file.write_all(&line)?)
    }
}
