//! Runs apt: updates lists, simulates, downloads, upgrades.

mod progress;
mod read;
mod remedy;

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};

use self::progress::ProgressWatch;
use self::read::{
    Complaints, parse_conflicts, parse_offered, parse_simulation, parse_sources, parse_status, parse_versions,
};
use crate::exit::{Exit, Explain as _, Failure};
use crate::files;
use crate::model::events::AptStatus;
use crate::model::package::{Offer, Offered, PackageName};
use crate::model::plan::Change;
use crate::model::policy::{ConffilePolicy, SyncPolicy};
use crate::system::command::{Failed, Program, Said};
use crate::system::unattended::{dpkg_options, unattended};
use crate::system::without_sync;

const APT_GET: &str = "apt-get";

/// Where apt keeps what it has downloaded.
pub(crate) const DOWNLOADS: &str = "var/cache/apt/archives";

/// How long apt waits for another program that holds dpkg's lock, in seconds.
const LOCK_TIMEOUT: u32 = 120;

/// Gets what apt reports.
type OnStatus<'a> = &'a mut dyn FnMut(AptStatus<'_>);

/// The changes that `apt-get -s dist-upgrade` announces.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Simulation {
    /// Every package that would change, in order of its name.
    pub(crate) changes: Vec<Change>,
    /// Packages that are unpacked and would only be configured.
    pub(crate) unfinished: Vec<String>,
    /// Packages that stay although there is a newer version of them.
    pub(crate) kept_back: Vec<String>,
}

/// Reads the package lists of every source.
///
/// # Errors
/// If a source cannot be read: the error has apt's message, which names it. Or if no source makes progress within the timeout.
pub(crate) fn update(timeout: Duration, on_status: OnStatus<'_>) -> Result<()> {
    let program = apt_get().args(["update", "--error-on=any"]);
    let result = run_listening(program, Some(timeout), &["E: ", "W: "], on_status);
    explained(
        result,
        "a package source cannot be read",
        "Check the network and the files in /etc/apt/sources.list.d; `apt-get update` shows the same without this program.",
    )
}

/// The versions of a package that apt knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    /// The one that apt would install, if there is one.
    pub(crate) candidate: Option<String>,
    /// The newest one, if apt was told to prefer the candidate.
    pub(crate) passed_over: Option<String>,
    /// True if a package source offers any of them.
    pub(crate) is_offered: bool,
}

/// Asks apt for the versions of a package.
pub(crate) fn versions(package: &str) -> Result<Versions> {
    let policy = |options: &[&str]| Program::new("apt-cache").args(options).args(["policy", package]).output();
    // On a disk that cannot be written, apt fails unless it keeps its cache in memory, which takes longer.
    let said =
        policy(&[]).or_else(|_| policy(&["--option=Dir::Cache::pkgcache=", "--option=Dir::Cache::srcpkgcache="]))?;
    Ok(parse_versions(&said))
}

/// The arguments that upgrade one installed package and never remove another.
const UPGRADE_ONLY: [&str; 3] = ["--only-upgrade", "--no-remove", "install"];

/// Downloads and verifies the packages for [`upgrade_only`]. Fails without progress within the timeout.
pub(crate) fn download_only(package: &str, timeout: Duration, on_status: OnStatus<'_>) -> Result<()> {
    let program = apt_get().args(["--yes", "--download-only"]).args(UPGRADE_ONLY).arg(package);
    run(program, Some(timeout), on_status)
}

/// Upgrades one installed package from the packages that [`download_only`] has downloaded.
pub(crate) fn upgrade_only(package: &str, conffiles: ConffilePolicy, on_status: OnStatus<'_>) -> Result<()> {
    run(change(conffiles).arg("--no-download").args(UPGRADE_ONLY).arg(package), None, on_status)
}

/// Reinstalls a package after dpkg was interrupted, from the cache if the package is there.
pub(crate) fn reinstall(
    package: &str,
    conffiles: ConffilePolicy,
    timeout: Duration,
    on_status: OnStatus<'_>,
) -> Result<()> {
    const REINSTALL: [&str; 3] = ["--reinstall", "--no-remove", "install"];
    run(apt_get().args(["--yes", "--download-only"]).args(REINSTALL).arg(package), Some(timeout), on_status)?;
    run(change(conffiles).args(REINSTALL).arg(package), None, on_status)
}

/// Simulates a dist-upgrade.
pub(crate) fn simulate() -> Result<Simulation> {
    Ok(parse_simulation(&apt_get().args(["--simulate", "--fix-broken", "dist-upgrade"]).output()?))
}

/// When the files changed last on which a simulation depends: dpkg's packages, apt's lists and what was installed automatically.
pub(crate) fn last_changes(root: &Path) -> [Option<SystemTime>; 3] {
    ["var/lib/dpkg/status", "var/lib/apt/lists", "var/lib/apt/extended_states"]
        .map(|path| files::metadata(root.join(path)).and_then(|file| file.modified()).ok())
}

/// The records of these packages in the sources, each of the given version. Unknown packages are skipped.
pub(crate) fn offered<'a>(packages: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Offered> {
    let wanted = packages.map(|(package, version)| format!("{package}={version}"));
    // apt-cache fails if it does not know one of them.
    Ok(parse_offered(&Program::new("apt-cache").args(["show", "--no-all-versions"]).stdout_for(wanted)?))
}

/// True if the .deb of a package is among apt's downloads: `NAME_VERSION_ARCHITECTURE.deb` (`pkgAcqArchive` in
/// apt-pkg/acquire-item.cc). apt compares its checksum, too.
pub(crate) fn is_downloaded(root: &Path, package: &PackageName, version: &str, offer: &Offer) -> bool {
    let file = [package.bare(), version, &offer.architecture].map(quoted).join("_");
    let file = root.join(DOWNLOADS).join(format!("{file}.deb"));
    files::metadata(file).is_ok_and(|file| file.len() == offer.size)
}

/// A part of a file's name as apt quotes it (`QuoteString` in apt-pkg/contrib/strutl.cc).
fn quoted(part: &str) -> String {
    part.replace('%', "%25").replace(':', "%3a").replace('_', "%5f")
}

/// A package source, from its Release file and its configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    /// Where it is: `http://deb.debian.org/debian bookworm`.
    pub(crate) name: String,
    /// Its codename: `bookworm-updates`; empty if it has none.
    pub(crate) codename: String,
    /// Its origin: `Debian`; empty if it has none.
    pub(crate) origin: String,
    /// True if it is signed with a trusted key, or if the admin declared it trusted.
    pub(crate) trusted: bool,
}

/// The sources that apt takes packages from.
pub(crate) fn sources() -> Result<Vec<Source>> {
    const FORMAT: &str = "$(SITE)\t$(RELEASE)\t$(CODENAME)\t$(ORIGIN)\t$(TRUSTED)";
    Ok(parse_sources(
        &Program::new("apt-get").args(["indextargets", "--format", FORMAT, "Created-By: Packages"]).output()?,
    ))
}

/// apt's reasons for removing these packages; empty if it need not remove them.
pub(crate) fn conflicts(changes: &[Change], kept: &[&str]) -> Result<Vec<String>> {
    let wanted = changes.iter().filter_map(|change| Some(format!("{}={}", change.package, change.new_version()?)));
    Ok(parse_conflicts(&apt_get().args(["--simulate", "install"]).args(kept).args(wanted).stdout()?))
}

/// Downloads and verifies the packages of a dist-upgrade, and changes nothing. Fails without progress within the timeout.
pub(crate) fn download(timeout: Duration, on_status: OnStatus<'_>) -> Result<()> {
    let program = apt_get().args(["--yes", "--download-only", "--fix-broken", "dist-upgrade"]);
    explained(
        run(program, Some(timeout), on_status),
        "the packages could not be downloaded",
        "Check the network and the space in /var/cache/apt, then start again.",
    )
}

/// Upgrades all packages from those that [`download`] has downloaded, without a question.
pub(crate) fn dist_upgrade(conffiles: ConffilePolicy, sync: SyncPolicy, on_status: OnStatus<'_>) -> Result<()> {
    let program = match sync {
        SyncPolicy::Each => Program::new(APT_GET),
        SyncPolicy::Deferred => without_sync::program(APT_GET),
    };
    run(changing(program, conffiles).args(["--no-download", "--fix-broken", "dist-upgrade"]), None, on_status)
}

/// Adds a message to an error of apt, and the remedy if the error is known.
fn explained(result: Result<()>, what: &str, otherwise: &str) -> Result<()> {
    let said = result.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
    result.explain(|| Failure::new(what).remedy(remedy::of(&said).unwrap_or_else(|| otherwise.to_owned())))
}

/// Runs apt-get. If it fails, the error has the messages of apt and dpkg.
fn run(program: Program, timeout: Option<Duration>, on_status: OnStatus<'_>) -> Result<()> {
    run_listening(program, timeout, &["E: "], on_status)
}

/// Runs apt-get. If it fails, the error has the messages of dpkg, and the lines of apt with one of these prefixes. A download has a
/// timeout, within which it has to make progress.
///
/// # Errors
/// If another program holds a lock, the failure has an exit code of its own: no package was changed.
fn run_listening(
    mut program: Program,
    timeout: Option<Duration>,
    marks: &[&str],
    on_status: OnStatus<'_>,
) -> Result<()> {
    let mut complaints = Complaints::default();
    let mut progress = timeout.map(ProgressWatch::new);
    if let Some(timeout) = timeout {
        program = program.time_limit(timeout);
    }
    let mut dpkg_began = false;
    let result = program.lines_and_status("--option=APT::Status-Fd=", &mut |said| {
        match said {
            Said::Line(text) => {
                complaints.listen(text, marks);
                on_status(AptStatus::Line(text));
            }
            Said::Status(text) => {
                dpkg_began |= text.starts_with("pmstatus:");
                if let Some(news) = parse_status(text) {
                    on_status(news);
                }
            }
        }
        progress.as_mut().is_some_and(|progress| progress.is_made(said))
    });
    let Err(error) = result else { return Ok(()) };
    if let Some(progress) = progress.filter(|_| error.downcast_ref::<Failed>().is_some_and(|failed| failed.timed_out)) {
        return Err(anyhow!(progress.lacking()));
    }
    let heard = complaints.text();
    // A maintainer script may run apt, which fails at the lock of this run.
    if heard.contains("Could not get lock") && !dpkg_began {
        return Err(Failure::new(heard)
            .remedy("Another program is working with packages (`ps -e | grep -E 'apt|dpkg'`): wait until it has ended, then start again.")
            .exit(Exit::Unchanged)
            .into());
    }
    if heard.contains("-y was used without") {
        return Err(Failure::new(heard)
            .remedy(
                "apt asks a question that the upgrader must not answer: `apt-get dist-upgrade` shows it. Often a pin in \
                 /etc/apt/preferences.d or a hold (`apt-mark showhold`) is the reason.",
            )
            .into());
    }
    if heard.contains("dpkg was interrupted") {
        return Err(Failure::new(heard).remedy("Upgrade without --download-only: that finishes it first.").into());
    }
    Err(if heard.is_empty() { error } else { anyhow!(heard) })
}

/// apt-get with the options that make it print plainly and wait for dpkg's lock.
fn apt_get() -> Program {
    plain(Program::new(APT_GET))
}

fn plain(apt_get: Program) -> Program {
    apt_get
        .setting(format!("--option=DPkg::Lock::Timeout={LOCK_TIMEOUT}"))
        .setting("--option=Dpkg::Use-Pty=false")
        .setting("--option=APT::Get::Show-Versions=false")
        .setting("--quiet")
}

/// apt-get with the options that change packages without a question.
fn change(conffiles: ConffilePolicy) -> Program {
    changing(Program::new(APT_GET), conffiles)
}

fn changing(apt_get: Program, conffiles: ConffilePolicy) -> Program {
    let options = dpkg_options(conffiles).map(|option| format!("--option=Dpkg::Options::={option}"));
    unattended(options.iter().fold(plain(apt_get).setting("--yes"), Program::setting), conffiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_downloaded_if_its_whole_deb_is_in_the_cache_under_the_name_that_apt_gives_it() {
        let root = tempfile::tempdir().expect("a directory");
        let downloads = root.path().join(DOWNLOADS);
        std::fs::create_dir_all(&downloads).expect("the cache");
        let offer = Offer { architecture: "amd64".to_owned(), installed_size: 1, size: 3, sha256: None };
        let package = PackageName::from("libc6:amd64");
        let is_downloaded = || is_downloaded(root.path(), &package, "1:2.36-9+deb12u1~x", &offer);
        assert!(!is_downloaded());
        let deb = downloads.join("libc6_1%3a2.36-9+deb12u1~x_amd64.deb");
        std::fs::write(&deb, "de").expect("a part of it");
        assert!(!is_downloaded());
        std::fs::write(&deb, "deb").expect("all of it");
        assert!(is_downloaded());
    }
}
