//! Images of machines: how they are built, named and removed.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use testcontainers::bollard::models::ContainerCreateBody;
use testcontainers::bollard::query_parameters::{
    BuildImageOptionsBuilder, CreateContainerOptions, CreateImageOptionsBuilder, ImportImageOptionsBuilder,
    ListImagesOptionsBuilder, RemoveContainerOptions, RemoveImageOptions,
};
use testcontainers::bollard::{Docker, body_full};

use crate::command::output;
use crate::data::tree;
use crate::machines::engine::{Engine, OWNER, Owner};
use crate::packages::binaries;
use crate::runtime::block_on;

/// The recipe. The tag of an image is a hash of all of it.
const DOCKERFILE: &str = include_str!("../../../images/Dockerfile");
const MACHINE: &str = include_str!("../../../images/machine.sh");
const BOOTSTRAP: &str = include_str!("../../../images/bootstrap.sh");

/// What the names of our images begin with.
const OURS: &str = "xivo-upgrade/";

/// What the repositories of bootstrapped base images begin with; they live only as long as a machine is built from them.
const BASE: &str = "xivo-upgrade/base";

/// For how long older images of a name are kept.
const KEPT: Duration = Duration::from_secs(6 * 60 * 60);

/// How long a registry may take to answer.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(15);

/// A Debian release on which the harness tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Debian {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Debian {
    /// All of them, oldest first.
    pub const ALL: [Self; 2] = [Self::Bookworm, Self::Trixie];

    /// The one that comes after it.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().skip_while(|debian| *debian != self).nth(1)
    }

    /// Its machine, freshly installed.
    #[must_use]
    pub fn machine(self) -> Image {
        Image::of(&self.to_string(), [self.to_string().as_str(), DOCKERFILE, MACHINE, BOOTSTRAP].map(str::as_bytes))
    }
}

impl fmt::Display for Debian {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        })
    }
}

/// An image of ours, named after its ingredients: it is never built twice and never out of date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its repository, `xivo-upgrade/bookworm` for example.
    pub repository: String,
    /// Its tag: a hash of the ingredients.
    pub tag: String,
}

impl Image {
    /// The image with this name that is made of these ingredients.
    pub fn of<'a>(name: &str, ingredients: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for ingredient in ingredients {
            hash.update(ingredient.len().to_le_bytes());
            hash.update(ingredient);
        }
        Self { repository: format!("{OURS}{name}"), tag: hex::encode(&hash.finalize()[..6]) }
    }

    /// True if the engine has it.
    #[must_use]
    pub fn exists(&self, engine: &Engine) -> bool {
        block_on(engine.docker().inspect_image(&self.to_string())).is_ok()
    }

    /// Makes it if the engine does not have it. Other processes of this host that need it wait for it.
    pub fn make_once(&self, engine: &Engine, make: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.exists(engine) {
            return Ok(());
        }
        let directory = binaries::target().join("images");
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let lock = File::create(directory.join(format!("{}.lock", self.repository.replace('/', "-"))))?;
        lock.lock()?;
        if !self.exists(engine) {
            make()?;
            self.remove_older(engine)?;
        }
        Ok(())
    }

    /// Writes its files into an archive for tar(1). Fails if the engine does not have it.
    pub fn export(&self, engine: &Engine, archive: &Path) -> Result<()> {
        let configuration = ContainerCreateBody {
            image: Some(self.to_string()),
            labels: Some(HashMap::from([(OWNER.to_owned(), Owner::this().to_string())])),
            ..ContainerCreateBody::default()
        };
        let container = block_on(engine.docker().create_container(None::<CreateContainerOptions>, configuration))?.id;
        let mut file = File::create(archive)?;
        let written = block_on(async {
            let mut pieces = engine.docker().export_container(&container);
            while let Some(piece) = pieces.next().await {
                file.write_all(&piece?)?;
            }
            anyhow::Ok(())
        });
        block_on(engine.docker().remove_container(&container, None::<RemoveContainerOptions>))?;
        written.with_context(|| self.to_string())
    }

    /// Copies it from one engine to another.
    pub fn copy(&self, from: &Engine, to: &Engine) -> Result<()> {
        ensure!(self.exists(from), "there is no machine image {self}: run `make setup`");
        let name = self.to_string();
        let archive: Vec<Bytes> = block_on(from.docker().export_image(&name).try_collect())?;
        let archive = futures_util::stream::iter(archive.into_iter().map(Ok::<_, io::Error>));
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        let progress = to.docker().import_image_stream(options, archive, None);
        block_on(progress.try_for_each(async |_| Ok(())))
            .with_context(|| format!("{self} cannot be copied to the other engine"))?;
        ensure!(self.exists(to), "{self} cannot be copied to the other engine");
        Ok(())
    }

    /// Removes older images of the same name, except those that are in use and recent ones, which another branch may need.
    pub fn remove_older(&self, engine: &Engine) -> Result<()> {
        remove(engine, |repository, tag| repository.ends_with(&self.repository) && tag != self.tag, KEPT)
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

/// Builds the machine's image unless it is there, and removes those of older recipes.
///
/// The base is the official image where a registry is reachable; `MACHINE_BASE` names another repository for it, or is
/// `bootstrap`. Otherwise it is bootstrapped from the Debian mirror.
pub fn ensure(engine: &Engine, debian: Debian, say: &dyn Fn(&str)) -> Result<()> {
    let machine = debian.machine();
    if machine.exists(engine) {
        return Ok(());
    }
    let wanted = std::env::var("MACHINE_BASE").unwrap_or_default();
    let repository = if wanted.is_empty() { "debian" } else { &wanted };
    let official = format!("{repository}:{debian}");
    let bootstrapped = format!("{BASE}-{debian}:latest");
    let base = if wanted != "bootstrap" && pull(engine.docker(), repository, debian, say) {
        &official
    } else {
        if !matches!(wanted.as_str(), "" | "bootstrap") {
            bail!("MACHINE_BASE: there is no image {official}");
        }
        bootstrap(engine.docker(), debian)?;
        &bootstrapped
    };
    say(&format!("{debian}: building the machine from {base}"));
    let built = build(engine.docker(), &machine, base);
    let _ = block_on(engine.docker().remove_image(&bootstrapped, None::<RemoveImageOptions>, None));
    built.with_context(|| format!("the machine image of {debian}"))?;
    machine.remove_older(engine)
}

/// Removes every image of ours.
pub fn remove_all(engine: &Engine) -> Result<()> {
    remove(engine, |_, _| true, Duration::ZERO)
}

/// Removes every image of ours with this name.
pub fn forget(engine: &Engine, name: &str) -> Result<()> {
    let wanted = format!("{OURS}{name}");
    remove(engine, |repository, _| repository.ends_with(&wanted), Duration::ZERO)
}

/// Removes images of ours that are unwanted and at least this old.
fn remove(engine: &Engine, unwanted: impl Fn(&str, &str) -> bool, age: Duration) -> Result<()> {
    let made_by = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(age).as_secs();
    let filters = HashMap::from([("reference".to_owned(), vec![format!("{OURS}*")])]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    for image in block_on(engine.docker().list_images(Some(options)))? {
        if !u64::try_from(image.created).is_ok_and(|created| created <= made_by) {
            continue;
        }
        for name in image.repo_tags {
            if name.rsplit_once(':').is_some_and(|(repository, tag)| unwanted(repository, tag)) {
                let _ = block_on(engine.docker().remove_image(&name, None::<RemoveImageOptions>, None));
            }
        }
    }
    Ok(())
}

/// Fetches an official image, if there is a registry that has it.
fn pull(docker: &Docker, repository: &str, debian: Debian, say: &dyn Fn(&str)) -> bool {
    let name = format!("{repository}:{debian}");
    block_on(async {
        if docker.inspect_image(&name).await.is_ok() {
            return true;
        }
        let tag = debian.to_string();
        let options = CreateImageOptionsBuilder::default().from_image(repository).tag(&tag).build();
        let mut progress = Box::pin(docker.create_image(Some(options), None, None));
        let Ok(Some(Ok(_))) = tokio::time::timeout(REGISTRY_TIMEOUT, progress.next()).await else {
            say(&format!("{debian}: no registry has {name}"));
            return false;
        };
        say(&format!("{debian}: fetching {name}"));
        progress.all(async |step| step.is_ok()).await
    })
}

/// Makes a base image from the Debian mirror.
fn bootstrap(docker: &Docker, debian: Debian) -> Result<()> {
    let tar = output(&tree("images/bootstrap.sh"), [debian.to_string().as_ref()])?;
    // Without a tag: Podman ignores it here.
    let name = format!("{BASE}-{debian}");
    let options = CreateImageOptionsBuilder::default().from_src("-").repo(&name).build();
    let progress = docker.create_image(Some(options), Some(body_full(tar.into())), None);
    block_on(progress.try_for_each(async |_| Ok(()))).context("the engine does not take the bootstrapped image")
}

/// Builds the machine's image from its base.
fn build(docker: &Docker, machine: &Image, base: &str) -> Result<()> {
    // By its identifier: an engine may look for the name in a registry although it has the image (Podman does).
    let base = block_on(docker.inspect_image(base))?.id.context("an image without an identifier")?;
    let context = [("Dockerfile", DOCKERFILE), ("machine.sh", MACHINE)];
    let context = archive(context.map(|(name, content)| (name.to_owned(), content.as_bytes(), 0o644)))?;
    let name = machine.to_string();
    let arguments = HashMap::from([("BASE", base.as_str())]);
    let options = BuildImageOptionsBuilder::default().t(&name).buildargs(&arguments).rm(true).forcerm(true).build();
    let body = body_full(context.into());
    block_on(async {
        let mut said = String::new();
        let mut progress = Box::pin(docker.build_image(options, None, Some(body)));
        while let Some(step) = progress.next().await {
            match step {
                Ok(step) => said.push_str(&step.stream.unwrap_or_default()),
                Err(error) => bail!("{error}; it said:\n{said}"),
            }
        }
        Ok(())
    })
}

/// A tar archive of files: path, content and mode of each.
pub(crate) fn archive<'a>(files: impl IntoIterator<Item = (String, &'a [u8], u32)>) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        archive.append_data(&mut header, path, content)?;
    }
    Ok(archive.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_after_all_its_ingredients() {
        let tag = |ingredients: &[&str]| Image::of("a", ingredients.iter().map(|text| text.as_bytes())).tag;
        assert_eq!(tag(&["x", "y"]), tag(&["x", "y"]));
        assert_ne!(tag(&["x", "y"]), tag(&["xy"]));
        assert_ne!(Debian::Bookworm.machine().tag, Debian::Trixie.machine().tag);
        assert_eq!(Debian::Bookworm.machine().repository, "xivo-upgrade/bookworm");
    }
}
