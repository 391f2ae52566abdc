//! The gate passes a good candidate repository, rejects a bad one, and names wrong input.

use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use assert_cmd::Command;
use harness::packages::deb;
use harness::packages::release::Release;
use harness::packages::shipped::SERVICES;
use quick_junit::Report;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use upgrader::checks::validated::{Member, Set};

/// A vendor's files: a directory of .debs for each release, and a product.toml.
struct Vendor(TempDir);

/// What a hostile maintainer script does.
const ESCAPE: &str = include_str!("escape.sh");

/// How a run of the gate ended.
struct Outcome {
    exit: Option<i32>,
    /// Standard output and error.
    screen: String,
}

impl Vendor {
    fn new(releases: &[&Release]) -> Result<Self> {
        let vendor = Self(tempfile::tempdir()?);
        for release in releases {
            let directory = vendor.path().join(&release.version);
            fs::create_dir(&directory)?;
            for package in &release.packages {
                fs::write(directory.join(package.file_name()), deb::build(package)?.bytes)?;
            }
        }
        let services = SERVICES.map(|service| format!("{service:?}")).join(", ");
        let product =
            format!("name = \"XiVO\"\nversion-package = \"xivo\"\n[services]\norder = [{services}]\nsettle = \"0s\"\n");
        fs::write(vendor.path().join("product.toml"), product)?;
        Ok(vendor)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// `harness` with these arguments.
    fn harness(&self, arguments: &str) -> Result<Output> {
        let arguments = shlex::split(arguments).context("the arguments")?;
        Ok(Command::new(env!("CARGO_BIN_EXE_harness")).current_dir(self.path()).args(arguments).output()?)
    }

    /// `harness gate` with these arguments, and product.toml unless they name another product.
    fn gate(&self, arguments: &str) -> Result<Outcome> {
        let product = if arguments.contains("--product ") { "" } else { "--product product.toml" };
        let output = self.harness(&format!("gate --output out {product} {arguments}"))?;
        let screen = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        Ok(Outcome { exit: output.status.code(), screen })
    }

    fn summary(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.path().join("out/summary.json"))?)?)
    }
}

#[test]
fn a_good_candidate_passes_and_the_reports_say_so() -> Result<()> {
    let vendor = Vendor::new(&[&Release::named("1.2.1")?, &Release::named("1.2.2")?])?;
    let outcome =
        vendor.gate("--candidate 1.2.2 --from-repo 1.2.1 --from 1.2.1 --on trixie --write-manifest validated")?;
    ensure!(outcome.exit == Some(0), "{outcome:?}{}", vendor.summary()?);
    let row = "gate::1.2.1-to-1.2.2::trixie  passed  ";
    ensure!(outcome.screen.lines().any(|line| line.starts_with(row)), "{outcome:?}");
    let junit = fs::read_to_string(vendor.path().join("out/junit.xml"))?;
    let junit = Report::deserialize_from_str(&junit)?;
    ensure!((junit.tests, junit.failures, junit.errors) == (1, 0, 0), "{junit:?}");
    let page = fs::read_to_string(vendor.path().join("out/report.html"))?;
    ensure!(page.contains("gate::1.2.1-to-1.2.2::trixie"), "the page lacks an upgrade");
    ensure!(vendor.summary()?["passed"] == 1, "{}", vendor.summary()?);
    // The packages that passed can be shipped as the validated set, with the sums of their contents.
    let set: Set = toml::from_str(&fs::read_to_string(vendor.path().join("validated/trixie.toml"))?)?;
    ensure!((set.product.as_str(), set.version.as_str(), set.debian.as_str()) == ("XiVO", "1.2.2", "trixie"), "{set}");
    for package in Release::named("1.2.2")?.packages {
        let sum = hex::encode(Sha256::digest(deb::build(&package)?.bytes));
        let member = set.packages.iter().find(|member| member.name == package.name);
        ensure!(member.is_some_and(|member| member.sha256.as_ref() == Some(&sum)), "{}: {member:?}", package.name);
    }
    let is_named = |members: &[Member], name: &str| members.iter().any(|member| member.name == name);
    ensure!(
        is_named(&set.packages, "xivo") && is_named(&set.base, "libc6") && !is_named(&set.packages, "libc6"),
        "{set}"
    );
    ensure!(![&set.packages, &set.base].into_iter().any(|members| is_named(members, "xivo-upgrade")), "{set}");
    let record = fs::read(vendor.path().join("out/cells/gate--1.2.1-to-1.2.2--trixie/record.json"))?;
    let record: Value = serde_json::from_slice(&record)?;
    let checked = record["checked"].as_array().context("a record without checks")?;
    for wanted in [
        "there is something to upgrade",
        "every service runs, and runs the new version",
        "it is the same as a machine on which the release was installed",
        "every service that has a readiness command is ready",
    ] {
        ensure!(checked.iter().any(|check| check == wanted), "{wanted} was not checked: {checked:?}");
    }
    Ok(())
}

#[test]
fn a_candidate_that_breaks_an_upgrade_is_held_back() -> Result<()> {
    let mut broken = Release::named("1.2.2")?;
    // Only an upgrade from 1.2.1 fails: a new installation does not.
    broken
        .package_mut("dahdi")?
        .script_mut("postinst")
        .push_str("\nif [ -n \"$2\" ]; then echo 'the schema is older than I thought' >&2; exit 3; fi\n");
    let vendor = Vendor::new(&[&Release::named("1.2.1")?, &broken])?;
    let outcome = vendor.gate("--candidate 1.2.2 --from-repo 1.2.1")?;
    ensure!(outcome.exit == Some(1), "{outcome:?}");
    ensure!(outcome.screen.contains("FAILED") && outcome.screen.contains("1 of 1 cells failed"), "{outcome:?}");
    let summary = vendor.summary()?;
    let failures = summary["cells"][0]["failures"].to_string();
    ensure!(failures.contains("the exit code is 4, not 0") && failures.contains("dahdi"), "{failures}");
    // The table says why. That a machine that was rolled back lacks the new release is no failure of its own.
    let row = outcome.screen.lines().rfind(|line| line.contains("FAILED  ")).context("no table")?;
    ensure!(
        row.contains("the exit code is 4, not 0: not all packages were upgraded") && row.contains("dahdi"),
        "{row}"
    );
    ensure!(!failures.contains("check failed"), "{failures}");
    let record = fs::read(vendor.path().join("out/cells/gate--installed-to-1.2.2--bookworm/record.json"))?;
    let checked = serde_json::from_slice::<Value>(&record)?["checked"].to_string();
    ensure!(checked.contains("everything was restored"), "{checked}");
    Ok(())
}

#[test]
fn a_maintainer_script_has_no_way_to_the_host() -> Result<()> {
    let mut hostile = Release::named("1.2.2")?;
    // In a mount namespace of its own, so that the machine is as it was afterwards.
    let attack = format!("\nunshare --mount sh >>/var/log/dpkg.log <<'ESCAPE' || :\n{ESCAPE}ESCAPE\n");
    hostile.package_mut("dahdi")?.script_mut("postinst").push_str(&attack);
    let vendor = Vendor::new(&[&Release::named("1.2.1")?, &hostile])?;
    let outcome = vendor.gate("--candidate 1.2.2 --from-repo 1.2.1 --on trixie")?;
    let log = fs::read_to_string(vendor.path().join("out/cells/gate--installed-to-1.2.2--trixie/dpkg.log"))
        .with_context(|| format!("{outcome:?}"))?;
    let tried: Vec<_> = log.lines().filter(|line| line.starts_with("escape: ")).collect();
    ensure!(tried.iter().any(|way| way.contains("core_pattern")) && tried.len() >= 20, "{tried:?}: {outcome:?}");
    let open: Vec<_> = tried.iter().filter(|way| !way.ends_with(": closed")).collect();
    ensure!(open.is_empty(), "{open:#?}");
    ensure!(outcome.exit == Some(0), "{outcome:?}{}", vendor.summary()?);
    Ok(())
}

#[test]
fn one_repository_may_have_all_versions_and_the_upgrader_that_is_shipped() -> Result<()> {
    let mut releases = [Release::named("1.2.1")?, Release::named("1.2.2")?];
    for release in &mut releases {
        // The metapackage wants its own version of another, as those of most vendors do.
        let exact = format!("dahdi (= {})", release.version);
        let depends = release.package_mut("xivo")?.control.get_mut("Depends").context("a metapackage")?;
        *depends = format!("{depends}, {exact}");
    }
    let vendor = Vendor::new(&[&releases[0], &releases[1]])?;
    fs::create_dir_all(vendor.path().join("product/post-upgrade.d"))?;
    fs::copy(vendor.path().join("product.toml"), vendor.path().join("product/product.toml"))?;
    let packaged =
        vendor.harness("deb --product product --maintainer 'Vendor <v@vendor.example>' --version 9.9 all")?;
    ensure!(packaged.status.success(), "{packaged:?}");
    for version in ["1.2.1", "1.2.2"] {
        fs::rename(vendor.path().join(version), vendor.path().join("all").join(version))?;
    }
    let outcome = vendor.gate("--product product --candidate all --from 1.2.1 --on trixie")?;
    ensure!(outcome.exit == Some(0), "{outcome:?}{}", vendor.summary()?);
    ensure!(outcome.screen.contains("trixie: the candidate is XiVO 1.2.2, with xivo-upgrade 9.9\n"), "{outcome:?}");
    Ok(())
}

#[test]
fn a_candidate_that_is_not_newer_or_a_version_that_is_nowhere_is_named() -> Result<()> {
    let vendor = Vendor::new(&[&Release::named("1.2.1")?])?;
    let outcome = vendor.gate("--candidate 1.2.1 --from 1.2.1,0.7")?;
    ensure!(outcome.exit == Some(1), "{outcome:?}");
    let summary = vendor.summary()?["cells"].to_string();
    ensure!(summary.contains("check failed: there is something to upgrade"), "{summary}");
    ensure!(summary.contains("the old repository has no xivo 0.7; it has 1.2.1"), "{summary}");
    Ok(())
}

#[test]
fn bad_input_is_named_in_a_line_before_anything_is_done() -> Result<()> {
    let vendor = Vendor::new(&[&Release::named("1.2.1")?])?;
    fs::create_dir(vendor.path().join("empty"))?;
    fs::write(vendor.path().join("bad.toml"), "name = \"XiVO\"\nversion-package = \"xivo\"\n[services]\nordr = []\n")?;
    fs::write(vendor.path().join("old.toml"), "description = \"\"\nold-upgrader = true\n")?;
    fs::write(vendor.path().join("state.toml"), "description = \"x\"\nprepared = \"\"\n")?;
    let good = "--candidate 1.2.1 --from 1.2.1";
    for (arguments, said) in [
        ("--candidate nowhere --from 1", "there is no such directory"),
        ("--candidate empty --from 1", "empty: there is no .deb in this directory"),
        (&format!("{good} --from-repo nowhere"), "there is no such directory"),
        (&format!("{good} --on woody"), "invalid value 'woody' for '--on"),
        (&format!("{good} --state state.toml"), "state.toml:2: unknown field `prepared`"),
        (&format!("{good} --state old.toml"), "old-upgrader, repository, fix and again are not for the gate"),
        (&format!("{good} --hooks empty"), "it has no pre-upgrade.d and no post-upgrade.d"),
        (&format!("{good} --on trixie,trixie"), "--on: trixie is there twice"),
        (&format!("{good} --key nowhere"), "there is no such file"),
        (&format!("{good} --product nowhere"), "there is no such file"),
        (&format!("{good} --product empty"), "empty: there is no product.toml in this directory"),
        (&format!("{good} --name 'X Y'"), "a package's name has small letters"),
        ("--candidate 1.2.1", "--from"),
    ] {
        let outcome = vendor.gate(arguments)?;
        ensure!(outcome.exit == Some(2) && outcome.screen.contains(said), "{arguments:?}: {outcome:?}");
    }
    fs::rename(vendor.path().join("bad.toml"), vendor.path().join("product.toml"))?;
    let outcome = vendor.gate(good)?;
    ensure!(outcome.exit == Some(2) && outcome.screen.contains("product.toml:4: unknown field `ordr`"), "{outcome:?}");
    Ok(())
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {:?}:\n{}", self.exit, self.screen)
    }
}
