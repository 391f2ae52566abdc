use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use testcontainers::bollard::query_parameters::{
    BuildImageOptionsBuilder, CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptions,
};
use testcontainers::bollard::{Docker, body_full};

use crate::command::run;
use crate::engine::{Engine, block_on};

/// The recipe. All of it goes into the tag.
const DOCKERFILE: &str = include_str!("../../images/Dockerfile");
const MACHINE: &str = include_str!("../../images/machine.sh");

/// How long a registry may take to say its first word.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(15);

/// A Debian release that there is a machine of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Debian {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Debian {
    /// All of them, oldest first.
    pub const ALL: [Self; 2] = [Self::Bookworm, Self::Trixie];

    /// The repository of its machine's image.
    #[must_use]
    pub fn image(self) -> String {
        format!("xivo-upgrade/{self}")
    }

    /// The tag of its machine's image: changes with the recipe, and with nothing else.
    #[must_use]
    pub fn tag(self) -> String {
        let recipe = Sha256::new().chain_update(self.to_string()).chain_update(DOCKERFILE).chain_update(MACHINE);
        hex::encode(&recipe.finalize()[..6])
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

/// True if the machine's image is there, as the recipe has it today.
#[must_use]
pub fn exists(engine: &Engine, debian: Debian) -> bool {
    block_on(engine.docker().inspect_image(&format!("{}:{}", debian.image(), debian.tag()))).is_ok()
}

/// Builds the machine's image unless it is there, and removes those of older recipes.
///
/// The base is the official image where a registry is reachable; `MACHINE_BASE` names another repository for it, or is
/// `bootstrap`. Otherwise it is bootstrapped from the Debian mirror.
pub fn ensure(engine: &Engine, debian: Debian, say: &mut dyn FnMut(&str)) -> Result<()> {
    if exists(engine, debian) {
        return Ok(());
    }
    let wanted = std::env::var("MACHINE_BASE").unwrap_or_default();
    let repository = if wanted.is_empty() { "debian" } else { &wanted };
    let official = format!("{repository}:{debian}");
    let bootstrapped = format!("xivo-upgrade/base:{debian}");
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
    let built = build(engine.docker(), debian, base);
    let _ = block_on(engine.docker().remove_image(&bootstrapped, None::<RemoveImageOptions>, None));
    built.with_context(|| format!("the machine image of {debian}"))?;
    remove(engine, debian, |tag| tag != debian.tag())
}

/// Removes those images of a machine whose tag is not wanted any more. One that is in use stays.
pub fn remove(engine: &Engine, debian: Debian, unwanted: impl Fn(&str) -> bool) -> Result<()> {
    let filters = HashMap::from([("reference".to_owned(), vec![debian.image()])]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    for image in block_on(engine.docker().list_images(Some(options)))? {
        for name in image.repo_tags {
            if name.rsplit_once(':').is_some_and(|(_, tag)| unwanted(tag)) {
                let _ = block_on(engine.docker().remove_image(&name, None::<RemoveImageOptions>, None));
            }
        }
    }
    Ok(())
}

/// Fetches an official image, if there is a registry that has it.
fn pull(docker: &Docker, repository: &str, debian: Debian, say: &mut dyn FnMut(&str)) -> bool {
    let name = format!("{repository}:{debian}");
    block_on(async {
        if docker.inspect_image(&name).await.is_ok() {
            return true;
        }
        let tag = debian.to_string();
        let options = CreateImageOptionsBuilder::default().from_image(repository).tag(&tag).build();
        let mut progress = Box::pin(docker.create_image(Some(options), None, None));
        let Ok(Some(Ok(_))) = tokio::time::timeout(REGISTRY_PATIENCE, progress.next()).await else {
            say(&format!("{debian}: no registry has {name}"));
            return false;
        };
        say(&format!("{debian}: fetching {name}"));
        while let Some(step) = progress.next().await {
            if step.is_err() {
                return false;
            }
        }
        true
    })
}

/// Makes a base image from the Debian mirror.
fn bootstrap(docker: &Docker, debian: Debian) -> Result<()> {
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let file = directory.path().join("base.tar");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/bootstrap.sh");
    run(&script, [debian.to_string().as_ref(), file.as_os_str()])?;
    let tar = std::fs::read(&file).with_context(|| file.display().to_string())?;
    let tag = debian.to_string();
    let options = CreateImageOptionsBuilder::default().from_src("-").repo("xivo-upgrade/base").tag(&tag).build();
    block_on(async {
        let mut progress = Box::pin(docker.create_image(Some(options), Some(body_full(tar.into())), None));
        while let Some(step) = progress.next().await {
            step.context("the engine does not take the bootstrapped image")?;
        }
        Ok(())
    })
}

/// Builds the machine's image from its base.
fn build(docker: &Docker, debian: Debian, base: &str) -> Result<()> {
    let mut context = tar::Builder::new(Vec::new());
    for (name, content) in [("Dockerfile", DOCKERFILE), ("machine.sh", MACHINE)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        context.append_data(&mut header, name, content.as_bytes())?;
    }
    let name = format!("{}:{}", debian.image(), debian.tag());
    let arguments = HashMap::from([("BASE", base)]);
    let options = BuildImageOptionsBuilder::default().t(&name).buildargs(&arguments).rm(true).forcerm(true).build();
    let body = body_full(context.into_inner()?.into());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_has_a_tag_of_its_own() {
        assert_ne!(Debian::Bookworm.tag(), Debian::Trixie.tag());
        assert_eq!(Debian::Bookworm.tag().len(), 12);
    }
}
