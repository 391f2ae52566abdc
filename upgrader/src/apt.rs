use anyhow::{Result, anyhow};

use crate::command::Program;
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

/// Reads the package lists of every source.
///
/// # Errors
/// If a single source cannot be read; apt's own words name it.
pub fn update(line: &mut dyn FnMut(&str)) -> Result<()> {
    run_listening(apt_get().args(["update", "--error-on=any"]), &["E: ", "W: "], line).explain(|| {
        Failure::new("a package source cannot be read").remedy(
            "Check the network and the files in /etc/apt/sources.list.d; `apt-get update` shows the same without this program.",
        )
    })
}

/// The version of a package that apt would install, if there is one.
pub fn candidate(package: &str) -> Result<Option<String>> {
    Ok(parse_candidate(&Program::new("apt-cache").args(["policy", package]).output()?))
}

/// Brings one installed package to its candidate version. Never removes another.
pub fn upgrade_only(package: &str, conffiles: ConffilePolicy, line: &mut dyn FnMut(&str)) -> Result<()> {
    run(change(conffiles).args(["--only-upgrade", "--no-remove", "install", package]), line)
}

/// What a dist-upgrade would do.
pub fn simulate() -> Result<Simulation> {
    Ok(parse_simulation(&apt_get().args(["--simulate", "dist-upgrade"]).output()?))
}

/// How many bytes a dist-upgrade still has to fetch.
pub fn download_size() -> Result<u64> {
    Ok(parse_uris(&apt_get().args(["--quiet=2", "--print-uris", "dist-upgrade"]).output()?))
}

/// Fetches and verifies everything a dist-upgrade needs, and changes nothing.
pub fn download(line: &mut dyn FnMut(&str)) -> Result<()> {
    run(apt_get().args(["--yes", "--download-only", "dist-upgrade"]), line)
}

/// Upgrades all packages, from what [`download`] fetched, without ever asking.
pub fn dist_upgrade(conffiles: ConffilePolicy, line: &mut dyn FnMut(&str)) -> Result<()> {
    run(change(conffiles).args(["--no-download", "dist-upgrade"]), line)
}

/// Runs apt-get. If it fails, the error is what apt and dpkg complained of.
fn run(program: Program, line: &mut dyn FnMut(&str)) -> Result<()> {
    run_listening(program, &["E: "], line)
}

/// Runs apt-get. If it fails, the error is what dpkg complained of, and what apt said in lines with one of these marks.
///
/// # Errors
/// Somebody else's lock is a failure of its own kind: nothing was changed, and waiting helps.
fn run_listening(program: Program, marks: &[&str], line: &mut dyn FnMut(&str)) -> Result<()> {
    let mut complaints = Complaints::default();
    let result = program.lines(&mut |text| {
        complaints.listen(text, marks);
        line(text);
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

/// Reads `Inst NAME [OLD] (NEW SOURCES [ARCH]) …`, `Inst NAME (NEW SOURCES [ARCH])` or `Remv NAME [OLD] …`.
fn parse_change(line: &str) -> Option<Change> {
    let (verb, rest) = line.split_once(' ')?;
    let (package, rest) = rest.split_once(' ')?;
    let old = rest
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map(|(version, rest)| (version, rest.trim_start()));
    let kind = match verb {
        "Inst" => {
            let rest = old.map_or(rest, |(_, rest)| rest);
            let to = rest.strip_prefix('(')?.split([' ', ')']).next().filter(|version| !version.is_empty())?.to_owned();
            match old {
                Some((from, _)) => ChangeKind::Upgrade { from: from.to_owned(), to },
                None => ChangeKind::Install { to },
            }
        }
        "Remv" | "Purg" => ChangeKind::Remove { from: old?.0.to_owned() },
        _ => return None,
    };
    Some(Change { package: package.to_owned(), kind })
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
    use proptest::prelude::*;

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
    fn the_sizes_of_what_is_to_fetch_add_up() {
        let text = "Reading...\n'http://r/pool/a%2bb_1.deb' a+b_1_all.deb 1200 SHA256:ab\n'http://r/c.deb' c.deb 34 SHA256:cd\n'x\n";
        assert_eq!(parse_uris(text), 1234);
    }

    /// Names as Debian's policy (5.6.7) allows them, with an architecture now and then.
    const NAME: &str = "[a-z0-9][a-z0-9+.-]{1,12}(:i386)?";
    /// Versions as deb-version(7) allows them.
    const VERSION: &str = "([0-9]:)?[0-9][A-Za-z0-9.+~-]{0,12}";

    fn any_change() -> impl Strategy<Value = Change> {
        let kind = prop_oneof![
            (VERSION, VERSION).prop_map(|(from, to)| ChangeKind::Upgrade { from, to }),
            VERSION.prop_map(|to| ChangeKind::Install { to }),
            VERSION.prop_map(|from| ChangeKind::Remove { from }),
        ];
        (NAME, kind).prop_map(|(package, kind)| Change { package, kind })
    }

    /// As apt writes it.
    fn simulated(change: &Change) -> String {
        let package = &change.package;
        match &change.kind {
            ChangeKind::Upgrade { from, to } => format!("Inst {package} [{from}] ({to} XiVO:five, XiVO:six [all]) []"),
            ChangeKind::Install { to } => format!("Inst {package} ({to} XiVO:five [amd64])"),
            ChangeKind::Remove { from } => format!("Remv {package} [{from}] [other:amd64 ]"),
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange_for_a_parser(text in "(?s).{0,200}", mark in "(Inst|Remv|Purg|Conf|E:|'|Candidate:| ) ?") {
            for text in [&text, &format!("{mark}{text}"), &format!("{text}\n{mark}{text}")] {
                parse_simulation(text);
                parse_candidate(text);
                parse_uris(text);
                let mut complaints = Complaints::default();
                for line in text.lines() {
                    complaints.listen(line, &["E: ", "W: "]);
                }
            }
        }

        #[test]
        fn every_change_that_apt_simulates_is_read_among_whatever_else_it_says(
            changes in prop::collection::vec((any_change(), "[A-HJ-Z][a-z. ]{0,20}"), 0..8),
        ) {
            let lines: Vec<String> = changes.iter().map(|(change, other)| format!("{other}\n{}\n", simulated(change))).collect();
            let mut wanted: Vec<Change> = changes.into_iter().map(|(change, _)| change).collect();
            wanted.sort();
            prop_assert_eq!(parse_simulation(&lines.concat()).changes, wanted);
        }

        #[test]
        fn packages_kept_back_are_read_however_apt_breaks_the_lines(lines in prop::collection::vec(prop::collection::vec(NAME, 1..4), 1..4)) {
            let listed: Vec<String> = lines.iter().map(|line| format!("  {}\n", line.join(" "))).collect();
            let text = format!("The following packages have been kept back:\n{}0 upgraded.\n", listed.concat());
            let mut wanted = lines.concat();
            wanted.sort();
            prop_assert_eq!(parse_simulation(&text).kept_back, wanted);
        }

        #[test]
        fn the_candidate_is_read_as_it_is_written(version in VERSION, installed in VERSION) {
            let policy = format!("xivo:\n  Installed: {installed}\n  Candidate: {version}\n  Version table:\n *** {installed} 500\n");
            prop_assert_eq!(parse_candidate(&policy), Some(version));
        }

        #[test]
        fn sizes_add_up_and_never_overflow(sizes in prop::collection::vec(any::<u64>(), 0..5)) {
            let lines: Vec<String> = sizes.iter().map(|size| format!("'http://r/a.deb' a.deb {size} SHA256:ab\n")).collect();
            prop_assert_eq!(parse_uris(&lines.concat()), sizes.into_iter().fold(0, u64::saturating_add));
        }

        #[test]
        fn what_apt_complains_of_first_is_always_heard(said in "[a-z][a-z ]{0,30}", before in prop::collection::vec("[A-Z][a-z ]{0,20}", 0..3)) {
            let mut complaints = Complaints::default();
            for line in &before {
                complaints.listen(line, &["E: "]);
            }
            complaints.listen(&format!("E: {said}"), &["E: "]);
            prop_assert_eq!(complaints.heard, [said.trim_end()]);
        }
    }
}
