//! The packages that passed the vendor's gate, and what differs from them.

mod drift;
mod verdict;

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::files;

pub use self::drift::Drift;
pub(crate) use self::verdict::{check_plan, judge};
use crate::config::strict;
use crate::exit::Failure;
use crate::model::package::Package;
use crate::model::validation::PackageDifference;
use crate::paths::Paths;
use crate::system::entries;

/// The packages of a release that passed the vendor's gate, on one release of Debian: what `harness gate --write-manifest` writes, and what
/// the upgrader's package has in `/usr/share/NAME-upgrade/validated`. The upgrader's own package is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// The product's name, as people write it.
    pub product: String,
    /// The version of its version package.
    pub version: String,
    /// The release of Debian: `bookworm`.
    pub debian: String,
    /// The packages that came with the product, in order of their names. A machine that lacks one is not what was validated.
    pub packages: Vec<Member>,
    /// The packages that the machine had before, with the versions that were validated.
    #[serde(default)]
    pub base: Vec<Member>,
}

/// A package of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its architecture, or `all`.
    pub architecture: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 sum of its .deb, in hex; none if no source had it any more.
    #[serde(default)]
    pub sha256: Option<String>,
}

impl Set {
    /// Reads the sets that came with the upgrader, in order of their files' names. Without the directory there are none.
    ///
    /// # Errors
    /// One line that names the file, and for what is wrong inside it the line and the key.
    pub fn all(paths: &Paths) -> Result<Vec<Self>> {
        let directory = paths.validated();
        let mut files = entries(&directory).with_context(|| directory.display().to_string())?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
        files.iter().map(|file| Self::read(file)).collect()
    }

    fn read(path: &Path) -> Result<Self> {
        let remedy =
            "This file is shipped with the product: install its upgrade package again, or report this to its vendor.";
        let failure = |what: String| Failure::new(format!("{}{what}", path.display())).remedy(remedy);
        let text = files::text(path).with_context(|| failure(": cannot be read".to_owned()))?;
        strict::parse(&text).map_err(|(line, message)| failure(format!(":{line}: {message}")).into())
    }

    /// Those of its packages that could be this one.
    fn find<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Member> {
        self.packages.iter().chain(&self.base).filter(move |member| member.name == name)
    }
}

impl fmt::Display for Set {
    /// The file, with a line for each package.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# The packages that passed the gate. Written by it; not meant to be edited.")?;
        let Self { product, version, debian, .. } = self;
        for (key, value) in [("product", product), ("version", version), ("debian", debian)] {
            writeln!(f, "{key} = {value:?}")?;
        }
        for (key, members) in [("packages", &self.packages), ("base", &self.base)] {
            writeln!(f, "{key} = [")?;
            for Member { name, architecture, version, sha256 } in members {
                write!(f, "    {{ name = {name:?}, architecture = {architecture:?}, version = {version:?}")?;
                if let Some(sum) = sha256 {
                    write!(f, ", sha256 = {sum:?}")?;
                }
                writeln!(f, " }},")?;
            }
            writeln!(f, "]")?;
        }
        Ok(())
    }
}

/// A package as it is on the machine, or will be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MachinePackage {
    name: String,
    architecture: String,
    version: String,
    /// The sum of the .deb that it is about to come from.
    sha256: Option<String>,
    /// True if it is not installed yet.
    is_new: bool,
}

/// The packages whose files are on the machine, but for the upgrader's own.
fn present(installed: &[Package], upgrader: &str) -> Vec<MachinePackage> {
    let present = installed.iter().filter(|package| package.is_present() && package.name != upgrader);
    let machine_package = |Package { name, architecture, version, .. }: Package| MachinePackage {
        name,
        architecture,
        version,
        sha256: None,
        is_new: false,
    };
    present.cloned().map(machine_package).collect()
}

/// The set for a version that has most in common with a machine: of one version there may be sets for several releases of Debian.
fn nearest<'a>(sets: &'a [Set], version: &str, machine: &[MachinePackage]) -> Option<&'a Set> {
    let in_common = |set: &&Set| machine.iter().filter(|here| matches!(compare(set, here), Comparison::Same)).count();
    sets.iter().rev().filter(|set| set.version == version).max_by_key(in_common)
}

/// What a set says of a package.
enum Comparison {
    /// Nothing: it is not part of it.
    None,
    /// It is as it was validated.
    Same,
    /// It is not.
    Differs(PackageDifference),
}

fn compare(set: &Set, here: &MachinePackage) -> Comparison {
    let members: Vec<&Member> = set.find(&here.name).collect();
    // Where there are several architectures of one name, its own counts.
    let Some(member) = members.iter().find(|member| member.architecture == here.architecture).or(members.first())
    else {
        return Comparison::None;
    };
    let same_content = match (&member.sha256, &here.sha256) {
        (Some(validated), Some(sum)) => validated == sum,
        _ => true,
    };
    let is_same = member.version == here.version && member.architecture == here.architecture && same_content;
    if is_same {
        return Comparison::Same;
    }
    Comparison::Differs(PackageDifference {
        package: here.name.clone(),
        version: here.version.clone(),
        validated: Some(member.version.clone()),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn member(name: &str, architecture: &str, version: &str, sha256: Option<&str>) -> Member {
        let [name, architecture, version] = [name, architecture, version].map(str::to_owned);
        Member { name, architecture, version, sha256: sha256.map(str::to_owned) }
    }

    /// A set of these packages, each with `a` as its sum.
    pub(crate) fn set(version: &str, debian: &str, packages: &[(&str, &str)]) -> Set {
        let member = |(name, version): &(&str, &str)| member(name, "all", version, Some("a"));
        Set {
            product: "Acme".to_owned(),
            version: version.to_owned(),
            debian: debian.to_owned(),
            packages: packages.iter().map(member).collect(),
            base: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut set = set("2", "bookworm", &[("acme", "2"), ("libacme1", "1:2~rc1")]);
        set.base = vec![member("libc6", "amd64", "2.36", None)];
        let text = set.to_string();
        assert_eq!(strict::parse::<Set>(&text).expect("it is good"), set);
        insta::assert_snapshot!(text, @r#"
        # The packages that passed the gate. Written by it; not meant to be edited.
        product = "Acme"
        version = "2"
        debian = "bookworm"
        packages = [
            { name = "acme", architecture = "all", version = "2", sha256 = "a" },
            { name = "libacme1", architecture = "all", version = "1:2~rc1", sha256 = "a" },
        ]
        base = [
            { name = "libc6", architecture = "amd64", version = "2.36" },
        ]
        "#);
    }

    #[test]
    fn the_sets_of_the_package_are_read_and_what_is_wrong_is_said_with_file_and_line() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        assert_eq!(Set::all(&paths).expect("no directory"), []);
        std::fs::create_dir_all(paths.validated()).expect("made");
        let file = |name: &str, text: &str| std::fs::write(paths.validated().join(name), text).expect("written");
        let (one, other) = (set("2", "trixie", &[("acme", "2")]), set("2", "bookworm", &[("acme", "2")]));
        file("trixie.toml", &one.to_string());
        file("bookworm.toml", &other.to_string());
        file("README", "not a set");
        assert_eq!(Set::all(&paths).expect("good"), [other, one]);
        file(
            "trixie.toml",
            "product = \"Acme\"\nversion = \"2\"\ndebian = \"trixie\"\npackages = [\n  { name = \"a\", sum = 1 },\n]\n",
        );
        let error = Set::all(&paths).expect_err("an unknown key").to_string();
        assert!(error.ends_with("validated/trixie.toml:5: unknown field `sum`, expected one of `name`, `architecture`, `version`, `sha256`"), "{error}");
    }

    #[test]
    fn every_key_is_documented_and_the_examples_are_good() {
        let page = documented::Page::read("docs/reference/manifest.md");
        let expected = |text: &str| documented::expected(&strict::parse::<Set>(text).expect_err("it is not known").1);
        page.section("## The set").has_keys(expected("unknown = 1"));
        page.section("## A package").has_keys(expected("packages = [{ unknown = 1 }]"));
        for example in page.examples("manifest") {
            let read = strict::parse::<Set>(&example.text);
            assert!(read.is_ok(), "line {}: {read:?}", example.line);
        }
    }

    #[test]
    fn of_several_sets_of_a_version_the_nearest_counts() {
        let sets = [
            set("2", "bookworm", &[("acme", "2"), ("libc6", "36")]),
            set("2", "trixie", &[("acme", "2"), ("libc6", "41")]),
        ];
        let machine = |libc: &str| {
            let installed = [("acme", "2"), ("libc6", libc)];
            present(&installed.map(|(name, version)| Package::installed(name, "all", version)), "acme-upgrade")
        };
        let debian = |version: &str, libc: &str| nearest(&sets, version, &machine(libc)).map(|set| set.debian.as_str());
        assert_eq!(debian("2", "41"), Some("trixie"));
        assert_eq!(debian("2", "36"), Some("bookworm"));
        assert_eq!(debian("2", "35"), Some("bookworm"), "the first, if none is nearer");
        assert_eq!(debian("3", "41"), None);
    }
}
