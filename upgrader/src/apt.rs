use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};

use crate::command::{Program, Said};
use crate::exit::{Exit, Explain as _, Failure};
use crate::plan::{Change, ChangeKind};
use crate::product::ConffilePolicy;
use crate::unattended::{dpkg_options, unattended};

/// How long apt waits for somebody else who holds dpkg's lock, in seconds.
const LOCK_TIMEOUT: u32 = 120;

/// What `apt-get -s dist-upgrade` says it would do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Simulation {
    /// Every package that would change, in order of its name.
    pub changes: Vec<Change>,
    /// Packages that are unpacked and would only be configured.
    pub unfinished: Vec<String>,
    /// Packages that stay although there is a newer version of them.
    pub kept_back: Vec<String>,
}

/// What apt tells while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News<'a> {
    /// A line that it, dpkg or a maintainer script printed.
    Line(&'a str),
    /// How far it is.
    Progress {
        /// In percent of what it does.
        percent: u8,
        /// What it is at.
        what: &'a str,
    },
}

/// Reads the package lists of every source.
///
/// # Errors
/// If a single source cannot be read; apt's own words name it.
pub fn update(tell: &mut dyn FnMut(News<'_>)) -> Result<()> {
    let result = run_listening(apt_get().args(["update", "--error-on=any"]), &["E: ", "W: "], tell);
    let said = result.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
    result.explain(|| {
        // apt compares the dates in the Release file with this machine's clock.
        let remedy = if said.contains("is not valid yet") || said.contains("is expired") {
            format!(
                "If this machine's clock is wrong (it shows {}), set it; otherwise the source has not been published anew in time.",
                jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC")
            )
        } else {
            "Check the network and the files in /etc/apt/sources.list.d; `apt-get update` shows the same without this program."
                .to_owned()
        };
        Failure::new("a package source cannot be read").remedy(remedy)
    })
}

/// The version of a package that apt would install, if there is one.
pub fn candidate(package: &str) -> Result<Option<String>> {
    Ok(parse_candidate(&Program::new("apt-cache").args(["policy", package]).output()?))
}

/// Brings one installed package to its candidate version. Never removes another.
pub fn upgrade_only(package: &str, conffiles: ConffilePolicy, tell: &mut dyn FnMut(News<'_>)) -> Result<()> {
    run(change(conffiles).args(["--only-upgrade", "--no-remove", "install", package]), tell)
}

/// What a dist-upgrade would do.
pub fn simulate() -> Result<Simulation> {
    Ok(parse_simulation(&apt_get().args(["--simulate", "--fix-broken", "dist-upgrade"]).output()?))
}

/// How many bytes a dist-upgrade still has to fetch.
pub fn download_size() -> Result<u64> {
    Ok(parse_uris(&apt_get().args(["--quiet=2", "--print-uris", "--fix-broken", "dist-upgrade"]).output()?))
}

/// What packages take on disk once installed, in kibibytes, by name. Each comes with a version; what apt does not know is left
/// out.
pub fn installed_sizes<'a>(packages: impl Iterator<Item = (&'a str, &'a str)>) -> Result<BTreeMap<String, u64>> {
    let mut wanted = packages.map(|(package, version)| format!("{package}={version}")).peekable();
    if wanted.peek().is_none() {
        return Ok(BTreeMap::new());
    }
    let mut sizes = BTreeMap::new();
    let mut name = String::new();
    // It fails if it does not know one of them.
    Program::new("apt-cache").args(["show", "--no-all-versions"]).args(wanted).each_line_of_stdout(&mut |line| {
        if let Some(package) = line.strip_prefix("Package: ") {
            package.clone_into(&mut name);
        } else if let Some(size) = line.strip_prefix("Installed-Size: ").and_then(|size| size.trim().parse().ok()) {
            sizes.insert(name.clone(), size);
        }
    })?;
    Ok(sizes)
}

/// A source of packages: what its Release file and its configuration say of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Where it is: `http://deb.debian.org/debian bookworm`.
    pub name: String,
    /// Its codename: `bookworm-updates`; empty if it has none.
    pub codename: String,
    /// Its origin: `Debian`; empty if it has none.
    pub origin: String,
    /// True if it is signed by somebody whom this machine trusts, or declared so by the admin.
    pub trusted: bool,
}

/// The sources that apt takes packages from.
pub fn sources() -> Result<Vec<Source>> {
    const FORMAT: &str = "$(SITE)\t$(RELEASE)\t$(CODENAME)\t$(ORIGIN)\t$(TRUSTED)";
    Ok(parse_sources(
        &Program::new("apt-get").args(["indextargets", "--format", FORMAT, "Created-By: Packages"]).output()?,
    ))
}

/// True if a source offers any version of a package.
pub fn is_offered(package: &str) -> Result<bool> {
    Ok(!Program::new("apt-cache").args(["madison", package]).output()?.trim().is_empty())
}

/// Why apt cannot make these changes without removing these packages, in its own words; nothing if it can.
pub fn conflicts(changes: &[Change], kept: &[&str]) -> Result<Vec<String>> {
    let wanted = changes.iter().filter_map(|change| match &change.kind {
        ChangeKind::Upgrade { to, .. } | ChangeKind::Install { to } => Some(format!("{}={to}", change.package)),
        ChangeKind::Remove { .. } => None,
    });
    let mut text = String::new();
    apt_get().args(["--simulate", "install"]).args(kept).args(wanted).each_line_of_stdout(&mut |line| {
        text.push_str(line);
        text.push('\n');
    })?;
    Ok(parse_conflicts(&text))
}

/// Fetches and verifies everything a dist-upgrade needs, and changes nothing.
pub fn download(tell: &mut dyn FnMut(News<'_>)) -> Result<()> {
    run(apt_get().args(["--yes", "--download-only", "--fix-broken", "dist-upgrade"]), tell)
}

/// Upgrades all packages, from what [`download`] fetched, without ever asking.
pub fn dist_upgrade(conffiles: ConffilePolicy, tell: &mut dyn FnMut(News<'_>)) -> Result<()> {
    run(change(conffiles).args(["--no-download", "--fix-broken", "dist-upgrade"]), tell)
}

/// Runs apt-get. If it fails, the error is what apt and dpkg complained of.
fn run(program: Program, tell: &mut dyn FnMut(News<'_>)) -> Result<()> {
    run_listening(program, &["E: "], tell)
}

/// Runs apt-get. If it fails, the error is what dpkg complained of, and what apt said in lines with one of these marks.
///
/// # Errors
/// Somebody else's lock is a failure of its own kind: nothing was changed, and waiting helps.
fn run_listening(program: Program, marks: &[&str], tell: &mut dyn FnMut(News<'_>)) -> Result<()> {
    let mut complaints = Complaints::default();
    let result = program.lines_and_status("--option=APT::Status-Fd=", &mut |said| match said {
        Said::Line(text) => {
            complaints.listen(text, marks);
            tell(News::Line(text));
        }
        Said::Status(text) => {
            if let Some(news) = parse_status(text) {
                tell(news);
            }
        }
    });
    let Err(error) = result else { return Ok(()) };
    let heard = complaints.heard.join("; ");
    if heard.contains("Could not get lock") {
        return Err(Failure::new(heard)
            .remedy("Another program is working with packages (`ps -e | grep -E 'apt|dpkg'`): wait until it has ended, then start again.")
            .exit(Exit::Unchanged)
            .into());
    }
    if heard.contains("dpkg was interrupted") {
        return Err(Failure::new(heard).remedy("Upgrade without --download-only: that finishes it first.").into());
    }
    Err(if heard.is_empty() { error } else { anyhow!(heard) })
}

/// apt-get, set up to print plainly and to wait for dpkg's lock.
fn apt_get() -> Program {
    Program::new("apt-get")
        .setting(format!("--option=DPkg::Lock::Timeout={LOCK_TIMEOUT}"))
        .setting("--option=Dpkg::Use-Pty=false")
        .setting("--quiet")
}

/// apt-get, set up to change packages without a question from anybody.
fn change(conffiles: ConffilePolicy) -> Program {
    let options = dpkg_options(conffiles).map(|option| format!("--option=Dpkg::Options::={option}"));
    unattended(options.iter().fold(apt_get().setting("--yes"), Program::setting), conffiles)
}

/// What apt and dpkg complain of, without the complaints that follow from others.
#[derive(Default)]
struct Complaints {
    heard: Vec<String>,
    goes_on: bool,
}

impl Complaints {
    fn listen(&mut self, line: &str, marks: &[&str]) {
        let apt = marks.iter().find_map(|mark| line.strip_prefix(mark));
        let follows = line.starts_with("E: Sub-process ") && !self.heard.is_empty();
        if let Some(said) = apt.filter(|_| !follows) {
            self.heard.push(said.trim_end().to_owned());
        } else if self.goes_on && line.starts_with(' ') {
            // dpkg says what it was about on one line and what happened on the next.
            if line.contains("dependency problems") {
                self.heard.pop();
            } else if let Some(complaint) = self.heard.last_mut() {
                complaint.push(' ');
                complaint.push_str(line.trim());
            }
        }
        self.goes_on = line.starts_with("dpkg: error processing ");
        if self.goes_on {
            self.heard.push(line.trim_end().to_owned());
        }
    }
}

/// Reads the `Candidate:` line of `apt-cache policy`.
fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim_start().strip_prefix("Candidate:"))?.trim();
    (version != "(none)" && !version.is_empty()).then(|| version.to_owned())
}

/// Reads `Inst`, `Conf`, `Remv` and `Purg` lines and the paragraph of packages kept back. Lines it does not know are passed over.
fn parse_simulation(text: &str) -> Simulation {
    let mut simulation = Simulation::default();
    let mut in_kept_back = false;
    for line in text.lines() {
        if in_kept_back && line.starts_with(' ') {
            simulation.kept_back.extend(line.split_whitespace().map(str::to_owned));
            continue;
        }
        in_kept_back = line == "The following packages have been kept back:";
        simulation.changes.extend(parse_change(line));
        simulation
            .unfinished
            .extend(line.strip_prefix("Conf ").and_then(|rest| rest.split(' ').next()).map(str::to_owned));
    }
    simulation.unfinished.retain(|package| !simulation.changes.iter().any(|change| change.package == *package));
    simulation.unfinished.sort();
    simulation.changes.sort();
    simulation.kept_back.sort();
    simulation
}

/// Reads `Inst NAME [OLD] (NEW SOURCES [ARCH]) …`, `Inst NAME (NEW SOURCES [ARCH])` or `Remv NAME [OLD] …`. Sources are like
/// `XiVO:five, XiVO:five-security`: what each is labelled, and its version.
fn parse_change(line: &str) -> Option<Change> {
    let (verb, rest) = line.split_once(' ')?;
    let (package, rest) = rest.split_once(' ')?;
    let old = rest
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map(|(version, rest)| (version, rest.trim_start()));
    let mut origins = Vec::new();
    let kind = match verb {
        "Inst" => {
            let rest = old.map_or(rest, |(_, rest)| rest);
            let (inside, _) = rest.strip_prefix('(')?.split_once(')')?;
            let (to, sources) = inside.split_once(' ').unwrap_or((inside, ""));
            let to = Some(to).filter(|version| !version.is_empty())?.to_owned();
            let sources = sources.rsplit_once('[').map_or(sources, |(sources, _)| sources);
            origins.extend(sources.split(',').filter_map(|source| Some(source.split_once(':')?.0.trim().to_owned())));
            origins.dedup();
            match old {
                Some((from, _)) => ChangeKind::Upgrade { from: from.to_owned(), to },
                None => ChangeKind::Install { to },
            }
        }
        "Remv" | "Purg" => ChangeKind::Remove { from: old?.0.to_owned() },
        _ => return None,
    };
    Some(Change { package: package.to_owned(), kind, origins })
}

/// Reads lines of five fields with tabs in between. A field that a source does not have is its own name, `$(CODENAME)`.
fn parse_sources(text: &str) -> Vec<Source> {
    let sources: BTreeSet<Source> = text
        .lines()
        .filter_map(|line| {
            let known = |field: &str| if field.starts_with("$(") { String::new() } else { field.to_owned() };
            let fields: Vec<String> = line.split('\t').map(known).collect();
            let [site, release, codename, origin, trusted] = &fields[..] else { return None };
            Some(Source {
                name: format!("{site} {release}").trim().to_owned(),
                codename: codename.clone(),
                origin: origin.clone(),
                trusted: trusted == "yes",
            })
        })
        .collect();
    sources.into_iter().collect()
}

/// Reads the paragraph of unmet dependencies: ` nginx : Conflicts: asterisk`, with more of the same package further in.
fn parse_conflicts(text: &str) -> Vec<String> {
    text.lines()
        .skip_while(|line| !line.starts_with("The following packages have unmet dependencies"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").replacen(" : ", ": ", 1))
        .collect()
}

/// Reads a line of apt's status descriptor: `pmstatus:PACKAGE:PERCENT:WHAT` while packages change, `dlstatus:NUMBER:PERCENT:WHAT`
/// while they are fetched (README.progress-reporting of apt). A package may have an architecture, `libc6:amd64`, behind one more
/// colon. Other lines are passed over.
fn parse_status(line: &str) -> Option<News<'_>> {
    let (kind, rest) = line.split_once(':')?;
    if kind != "pmstatus" && kind != "dlstatus" {
        return None;
    }
    let mut from = 0;
    // The percentage is the first field that is a number with a point in it.
    loop {
        let rest = rest.get(from..)?;
        let (field, after) = rest.split_once(':')?;
        if let Some((whole, _)) = field.split_once('.')
            && let Ok(percent) = whole.parse::<u8>()
        {
            return Some(News::Progress { percent: percent.min(100), what: after.trim() });
        }
        from += field.len() + 1;
    }
}

/// Adds up the sizes in `'URI' FILE SIZE HASH` lines, in bytes.
fn parse_uris(text: &str) -> u64 {
    text.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_is_read_whatever_the_versions_look_like() {
        let simulation = parse_simulation(
            "NOTE: This is only a simulation!\n\
             Reading package lists...\n\
             The following packages have been kept back:\n  \
               linux-image-amd64\n  \
               held-one another\n\
             The following packages will be upgraded:\n  \
               asterisk xivo\n\
             2 upgraded, 1 newly installed, 1 to remove and 1 not upgraded.\n\
             Remv xivo-old [1.1] [xivo:amd64 ]\n\
             Inst xivo [1:2023.1-rc1] (1:2023.2~beta+b1 XiVO:five [all]) []\n\
             Inst asterisk:i386 [12.04] (13.0 XiVO:five, XiVO:five-security [i386])\n\
             Inst xivo-new (1.2.2 XiVO:five [all])\n\
             Conf xivo (1:2023.2~beta+b1 XiVO:five [all])\n\
             Conf half (1.0 XiVO:five [all])\n",
        );
        let changes: Vec<String> = simulation.changes.iter().map(Change::to_string).collect();
        assert_eq!(
            changes,
            [
                "asterisk:i386 12.04 -> 13.0",
                "xivo 1:2023.1-rc1 -> 1:2023.2~beta+b1",
                "install xivo-new 1.2.2",
                "remove xivo-old 1.1"
            ]
        );
        assert_eq!(simulation.changes[0].origins, ["XiVO"], "each source once");
        assert_eq!(simulation.unfinished, ["half"]);
        assert_eq!(simulation.kept_back, ["another", "held-one", "linux-image-amd64"]);
    }

    #[test]
    fn broken_lines_of_a_simulation_are_passed_over() {
        for line in ["Inst", "Inst x", "Inst x [1", "Inst x ()", "Remv x", "Remv x (1)", "Inst  ", "", "Inst x [1] 2"] {
            assert_eq!(parse_change(line), None, "{line:?}");
        }
    }

    #[test]
    fn an_error_is_what_was_complained_of_first() {
        let mut complaints = Complaints::default();
        for line in [
            "Setting up dahdi (1.2.2) ...",
            "no kernel module",
            "dpkg: error processing package dahdi (--configure):",
            " installed dahdi package post-installation script subprocess returned error exit status 1",
            "dpkg: dependency problems prevent configuration of xivo:",
            " xivo depends on dahdi (>= 1.2.2); however:",
            "dpkg: error processing package xivo (--configure):",
            " dependency problems - leaving unconfigured",
            "Errors were encountered while processing:",
            " dahdi",
            " xivo",
            "E: Sub-process /usr/bin/dpkg returned an error code (1)",
        ] {
            complaints.listen(line, &["E: "]);
        }
        assert_eq!(
            complaints.heard,
            ["dpkg: error processing package dahdi (--configure): installed dahdi package post-installation script \
              subprocess returned error exit status 1"]
        );
    }

    #[test]
    fn a_package_without_candidate_has_none() {
        assert_eq!(parse_candidate("xivo:\n  Installed: 1\n  Candidate: 1:2.0-rc1\n").as_deref(), Some("1:2.0-rc1"));
        assert_eq!(parse_candidate("xivo:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn sources_are_named_once_and_what_they_lack_is_empty() {
        let line = "http://deb.debian.org/debian\tbookworm\tbookworm\tDebian\tyes\n";
        let flat = "file:/srv/flat/\t./\t$(CODENAME)\t$(ORIGIN)\tno\nnonsense\n";
        let sources = parse_sources(&format!("{line}{line}{flat}"));
        assert_eq!(sources.len(), 2);
        assert_eq!(
            sources[0],
            Source {
                name: "file:/srv/flat/ ./".to_owned(),
                codename: String::new(),
                origin: String::new(),
                trusted: false,
            }
        );
        assert!(sources[1].trusted && sources[1].codename == "bookworm" && sources[1].origin == "Debian");
    }

    #[test]
    fn the_reason_of_a_removal_is_what_apt_says_of_dependencies() {
        let text = "Reading...\n\nThe following packages have unmet dependencies:\n nginx : Conflicts: asterisk\n        \
                    Breaks: dahdi (< 2)\nE: Unable to correct problems\n   1. asterisk\n";
        assert_eq!(parse_conflicts(text), ["nginx: Conflicts: asterisk", "Breaks: dahdi (< 2)"]);
        assert_eq!(parse_conflicts("0 upgraded\n"), Vec::<String>::new());
    }

    #[test]
    fn progress_is_read_whatever_the_package_is_called() {
        let progress = |percent, what| Some(News::Progress { percent, what });
        assert_eq!(parse_status("pmstatus:dpkg-exec:12.5:Running dpkg"), progress(12, "Running dpkg"));
        assert_eq!(
            parse_status("pmstatus:libc6:amd64:33.3333:Unpacking libc6:amd64"),
            progress(33, "Unpacking libc6:amd64")
        );
        assert_eq!(
            parse_status("dlstatus:1:100.000:Retrieving file 1 of 2: x"),
            progress(100, "Retrieving file 1 of 2: x")
        );
        assert_eq!(parse_status("pmstatus:x:250.0:y"), progress(100, "y"));
        for line in [
            "",
            "pmstatus",
            "pmstatus:",
            "pmstatus:a:b:c",
            "pmerror:/x.deb:50.0:broken",
            "media-change:a:b:1.0:c",
            "é:1.0:x",
        ] {
            assert_eq!(parse_status(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_sizes_of_what_is_to_fetch_add_up() {
        let text = "Reading...\n'http://r/pool/a%2bb_1.deb' a+b_1_all.deb 1200 SHA256:ab\n'http://r/c.deb' c.deb 34 SHA256:cd\n'x\n";
        assert_eq!(parse_uris(text), 1234);
    }
}
