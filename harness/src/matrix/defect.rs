//! Defects of releases: the files in `defects/`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use toml::Spanned;
use upgrader::config::strict::line_at;
use upgrader::model::hook::Phase;

use super::record::Record;
use crate::data;
use crate::machines::image::Debian;
use crate::machines::product_machine;
use crate::machines::world::World;
use crate::observe::expectation::Expectation;
use crate::observe::inventory::{Inventory, Section};
use crate::packages::package::{File, Package};
use crate::packages::release::Release;
use crate::packages::repository_fault::RepositoryFault;
use crate::packages::shipped::definition;

/// Something that a vendor does wrong. An upgrade to it has to fail, for the reasons that its file gives.
#[derive(Debug, Clone)]
pub struct Defect {
    /// The name of its file.
    pub name: String,
    /// What its file says.
    pub file: DefectFile,
    /// The new release as it is published.
    pub(super) candidate: Release,
    /// The old release as the machine has it.
    old: Release,
    replaced: Vec<Replacement>,
}

/// A file in `defects/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DefectFile {
    /// What the vendor did wrong, and how it shows in the field.
    pub description: String,
    /// The version of the release that the machine has.
    #[serde(default = "DefectFile::old_release")]
    pub(super) from: String,
    /// The version of the release that is published for it.
    #[serde(default = "DefectFile::new_release")]
    to: String,
    /// The machine's Debian.
    pub(super) on: Debian,
    /// What the admin did before, in shell commands.
    #[serde(default)]
    pub(super) prepare: String,
    /// What is expected of an upgrade of such a machine.
    #[serde(default)]
    pub(super) expect: Expectation,
    /// What is different about the old release.
    #[serde(default)]
    old: ReleaseEdit,
    /// What is different about the new one.
    #[serde(default)]
    new: ReleaseEdit,
    /// Hooks that the upgrader of the new release ships.
    #[serde(default, rename = "hook")]
    hooks: Vec<ShippedHook>,
    /// What is different about its product.toml.
    #[serde(default)]
    product: ProductEdit,
    /// What is wrong with the repository.
    repository: Option<RepositoryFault>,
    /// Parts of the findings of the checks; empty for a control, in which nothing may be found.
    pub caught_by: Vec<String>,
    /// Whether `make test` runs it, too.
    #[serde(default)]
    pub(super) chosen: bool,
}

/// What is different about a release.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ReleaseEdit {
    /// Packages that are different.
    #[serde(rename = "change")]
    changes: Vec<PackageEdit>,
    /// Packages that it has in addition.
    #[serde(rename = "package")]
    packages: Vec<Package>,
    /// Packages that it lacks.
    drop: Vec<Spanned<String>>,
}

/// What is different about a package.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PackageEdit {
    /// The package.
    name: Spanned<String>,
    version: Option<String>,
    /// Control fields; an empty one is left out.
    #[serde(default)]
    control: BTreeMap<String, String>,
    /// Files, beside those that it has or in place of them.
    #[serde(default, rename = "file")]
    files: Vec<File>,
    /// Paths of files that it does not have.
    #[serde(default)]
    without: Vec<Spanned<String>>,
    #[serde(default)]
    links: BTreeMap<String, String>,
    #[serde(default)]
    directories: Vec<String>,
    /// Maintainer scripts in place of its own; what debhelper writes for a service follows.
    #[serde(default)]
    scripts: BTreeMap<String, String>,
    service: Option<bool>,
}

/// A hook of the upgrader's.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShippedHook {
    phase: Phase,
    name: String,
    content: String,
    #[serde(default = "ShippedHook::executable")]
    mode: u32,
}

/// What is different about product.toml.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProductEdit {
    /// Texts, and what is there instead.
    replace: Vec<Spanned<(String, String)>>,
}

/// A text of product.toml, what is there instead, and where that is written.
#[derive(Debug, Clone)]
struct Replacement {
    place: String,
    text: String,
    by: String,
}

/// What is wrong with a defect's file, and at which byte.
type Located = (usize, String);

/// Reads all defects, in the order of their names. An error names the file, the line and the key.
pub(super) fn all() -> Result<Vec<Defect>> {
    data::files("defects")?.into_iter().map(|(name, path)| read(&name, &path)).collect()
}

fn read(name: &str, path: &Path) -> Result<Defect> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file: DefectFile = data::parse(path, &text)?;
    let at = |offset: usize| format!("{}:{}", path.display(), line_at(&text, offset));
    let release = |version: &str, edition: &ReleaseEdit| {
        Release::changed(version, |release| {
            edition.apply(release).map_err(|(offset, what)| anyhow::anyhow!("{}: {what}", at(offset)))
        })
    };
    let replaced = |replace: &Spanned<(String, String)>| {
        let (text, by) = replace.get_ref().clone();
        Replacement { place: at(replace.span().start), text, by }
    };
    Ok(Defect {
        name: name.to_owned(),
        old: release(&file.from, &file.old)?,
        candidate: release(&file.to, &file.new)?,
        replaced: file.product.replace.iter().map(replaced).collect(),
        file,
    })
}

impl DefectFile {
    fn old_release() -> String {
        "1.2.1".to_owned()
    }

    fn new_release() -> String {
        "1.2.2".to_owned()
    }
}

impl ShippedHook {
    fn executable() -> u32 {
        0o755
    }
}

impl ReleaseEdit {
    /// Lets a machine that has the release as it is otherwise have what is different about it, as if it had been installed so.
    fn install(&self, Release { product, packages, .. }: &Release, world: &mut World) -> Result<()> {
        let is_different = |package: &&Package| {
            self.changes.iter().any(|change| *change.name.get_ref() == package.name)
                || self.packages.iter().any(|new| new.name == package.name)
        };
        let different: Vec<&Package> = packages.iter().filter(is_different).collect();
        let dropped = self.drop.iter().map(|name| name.get_ref().as_str());
        let names: Vec<&str> = different.iter().map(|package| package.name.as_str()).chain(dropped).collect();
        if names.is_empty() {
            return Ok(());
        }
        world.publish(different)?;
        // The metapackage goes as well, so that nothing is broken and apt brings all of it back, the way it came.
        let script = format!(
            "dpkg --purge --force-depends {product} {} 2>&1
             apt-get -qq update
             DEBIAN_FRONTEND=noninteractive apt-get -qq -y install {product} 2>&1",
            names.join(" ")
        );
        world.machine.sh(&script).map(drop)
    }

    fn apply(&self, release: &mut Release) -> Result<(), Located> {
        for change in &self.changes {
            change.apply(find(&mut release.packages, &change.name)?)?;
        }
        for name in &self.drop {
            find(&mut release.packages, name)?;
            release.packages.retain(|package| package.name != *name.get_ref());
        }
        release.packages.extend(self.packages.iter().cloned());
        Ok(())
    }
}

fn find<'a>(packages: &'a mut [Package], name: &Spanned<String>) -> Result<&'a mut Package, Located> {
    let unknown = || (name.span().start, format!("the release has no package {:?}", name.get_ref()));
    packages.iter_mut().find(|package| package.name == *name.get_ref()).ok_or_else(unknown)
}

impl PackageEdit {
    fn apply(&self, package: &mut Package) -> Result<(), Located> {
        if let Some(version) = &self.version {
            package.version.clone_from(version);
        }
        package.control.extend(self.control.clone());
        package.control.retain(|_, value| !value.is_empty());
        for path in &self.without {
            let count = package.files.len();
            package.files.retain(|file| file.path != *path.get_ref());
            if package.files.len() == count {
                let what = format!("without: {} has no file {:?}", package.name, path.get_ref());
                return Err((path.span().start, what));
            }
        }
        package.files.retain(|file| self.files.iter().all(|new| new.path != file.path));
        package.files.extend(self.files.iter().cloned());
        package.links.extend(self.links.clone());
        package.directories.extend(self.directories.iter().cloned());
        package.scripts.extend(self.scripts.clone());
        package.service = self.service.unwrap_or(package.service);
        Ok(())
    }
}

impl Defect {
    /// Lets the machine have what is different about the old release, as if it had been installed so.
    pub(super) fn install_old(&self, world: &mut World) -> Result<()> {
        self.file.old.install(&self.old, world).context("the old release cannot be installed")
    }

    /// The inventory of a machine on which the new release was installed.
    pub(super) fn installed(&self, debian: Debian, upgrader: &Package) -> Result<Inventory> {
        let mut world = product_machine::at_release(debian, &self.candidate.version, upgrader)?;
        let installed = self.file.new.install(&self.candidate, &mut world);
        installed.context("the new release cannot be installed where there was none")?;
        Inventory::collect(&world.machine, &[Section::Release])
    }

    /// The upgrader that is published with the new release: a newer one, if something about it is different.
    pub(super) fn upgrader(&self, mut upgrader: Package) -> Result<Package> {
        if self.file.hooks.is_empty() && self.replaced.is_empty() {
            return Ok(upgrader);
        }
        upgrader.version.push_str("+1");
        for ShippedHook { phase, name, content, mode } in &self.file.hooks {
            let path = format!("/usr/share/{}/{phase}.d/{name}", upgrader.name);
            upgrader.files.retain(|file| file.path != path);
            upgrader = upgrader.file(&path, content.as_str(), *mode);
        }
        let product = definition::file(&mut upgrader)?;
        let mut text = String::from_utf8(std::mem::take(&mut product.content)).context("product.toml")?;
        for Replacement { place, text: old, by } in &self.replaced {
            ensure!(text.contains(old.as_str()), "{place}: replace: product.toml has no {old:?}");
            text = text.replace(old.as_str(), by);
        }
        product.content = text.into_bytes();
        Ok(upgrader)
    }

    /// Injects what is wrong with the repository.
    pub(super) fn inject(&self, world: &World) -> Result<()> {
        self.file.repository.map_or(Ok(()), |fault| world.inject(fault))
    }

    /// Compares the findings with `caught-by`: each part has to be in a finding, and each finding has to have a part. The error lists both what
    /// was missed and what was found beside it.
    pub fn verdict(&self, record: &Record) -> Result<(), Vec<String>> {
        let mut escaped = Vec::new();
        if record.passed() && !self.file.caught_by.is_empty() {
            escaped.push("nothing was found wrong".to_owned());
        } else {
            let findings: Vec<String> = record.findings().collect();
            let found = |part: &&String| findings.iter().any(|finding| finding.contains(part.as_str()));
            let missed = self.file.caught_by.iter().filter(|part| !found(part));
            escaped.extend(missed.map(|part| format!("it was not found that: {part}")));
            let explained = |finding: &&String| self.file.caught_by.iter().any(|part| finding.contains(part.as_str()));
            let beside = findings.iter().filter(|finding| !explained(finding));
            escaped.extend(beside.map(|finding| format!("also found, and for no reason that is known: {finding}")));
        }
        if escaped.is_empty() { Ok(()) } else { Err(escaped) }
    }
}

#[cfg(test)]
mod tests {
    use documented::Page;

    use super::*;
    use crate::data::{keys, read_as};

    fn complaint(text: &str) -> String {
        let text = format!("description = \"\"\non = \"trixie\"\ncaught-by = []\n{text}\n");
        let error = read_as("bad.toml", &text, |path| read("bad", path)).unwrap_err().to_string();
        error[error.find("bad.toml").unwrap()..].to_owned()
    }

    #[test]
    fn every_key_is_documented_and_the_examples_are_good() {
        let page = Page::read("docs/reference/defects.md");
        page.section("## The file").has_keys(keys::<DefectFile>());
        page.section("### Changes").has_keys(keys::<PackageEdit>());
        page.section("## Releases").has_keys(keys::<ReleaseEdit>().into_iter().chain(keys::<PackageEdit>()));
        page.section("## Hooks").has_keys(keys::<ShippedHook>());
        page.section("## product.toml").has_keys(keys::<ProductEdit>());
        for example in page.examples("defect") {
            read_as("example.toml", &example.text, |path| read("example", path)).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_with_a_defect_is_said_with_its_line_and_key() {
        for (text, said) in [
            ("[new]\nremove = []", "bad.toml:5: unknown field `remove`"),
            ("[new]\ndrop = [\"x\"]", "bad.toml:5: the release has no package \"x\""),
            ("[[new.change]]\nname = \"x\"", "bad.toml:5: the release has no package \"x\""),
            ("[[new.change]]\nname = \"xivo\"\nwithout = [\"/x\"]", "bad.toml:6: without: xivo has no file \"/x\""),
            ("[[hook]]\nphase = \"x\"", "bad.toml:5: phase: unknown variant `x`"),
            ("[product]\nreplace = [\"a\"]", "bad.toml:5: replace: "),
            ("repository = { fault = { error = 200 } }", "bad.toml:4: repository: error = 200"),
        ] {
            let error = complaint(text);
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }

    #[test]
    fn every_defect_is_good_and_there_are_controls() {
        let defects = all().unwrap();
        assert!(defects.iter().filter(|defect| !defect.file.caught_by.is_empty()).count() >= 32);
        assert!(defects.iter().any(|defect| defect.file.caught_by.is_empty()));
        for defect in &defects {
            for package in defect.old.packages.iter().chain(&defect.candidate.packages) {
                crate::packages::deb::build(package).unwrap();
            }
        }
    }

    #[test]
    fn a_defect_is_caught_for_its_reasons_and_for_no_others() {
        let mut defect = all().unwrap().remove(0);
        defect.file.caught_by = vec!["<a>".to_owned(), "<b>".to_owned()];
        let verdict = |failures: &[&str]| {
            let failures = failures.iter().map(|failure| (*failure).to_owned()).collect();
            let record = Record { failures, ..Record::default() };
            defect.verdict(&record).map_err(|escaped| escaped.join("; "))
        };
        assert_eq!(verdict(&["is <a>", "is <b>"]), Ok(()));
        assert_eq!(verdict(&["is <a> and <b>"]), Ok(()));
        assert_eq!(verdict(&[]), Err("nothing was found wrong".to_owned()));
        assert_eq!(verdict(&["is <a>"]), Err("it was not found that: <b>".to_owned()));
        let beside = "also found, and for no reason that is known: <c>".to_owned();
        assert_eq!(verdict(&["is <a>", "is <b>", "<c>"]), Err(beside));
        // One finding of a check explains no other.
        assert_eq!(verdict(&["check failed: it is so:\n  <a>\n  <b>"]), Ok(()));
        let beside = "also found, and for no reason that is known: check failed: it is so:\n  <c>".to_owned();
        assert_eq!(verdict(&["check failed: it is so:\n  <a>\n  <b>\n  <c>"]), Err(beside));
    }
}
