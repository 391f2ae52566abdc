//! Parses the output of apt.

use std::collections::BTreeSet;

use super::{Simulation, Source, Versions};
use crate::model::events::AptStatus;
use crate::model::package::{Offer, Offered};
use crate::model::plan::{Change, ChangeKind};

/// Messages of apt that only repeat an earlier one, each with the earlier one.
const SUMMARIES: [&str; 4] = [
    "Sub-process ",
    "Some index files failed to download",
    "Some files failed to download",
    "Unable to fetch some archives",
];

/// The errors of apt and dpkg, without those that follow from others.
#[derive(Default)]
pub(super) struct Complaints {
    /// The errors, in order.
    pub(super) heard: Vec<String>,
    goes_on: bool,
}

impl Complaints {
    /// Reads a line. These prefixes mark the errors of apt.
    pub(super) fn listen(&mut self, line: &str, marks: &[&str]) {
        let apt = marks.iter().find_map(|mark| line.strip_prefix(mark));
        if let Some(said) = apt {
            let said = without_address(said.trim_end()).trim_end_matches(':');
            if !self.follows(said) {
                self.heard.push(said.to_owned());
            }
        } else if self.goes_on && line.starts_with(' ') {
            // dpkg names the package on one line and the error on the next.
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

    /// True if the error follows from an earlier one. apt also reports a repository as unsigned if it could not read or verify it.
    fn follows(&self, said: &str) -> bool {
        let unsigned = said.strip_prefix("The repository '").filter(|rest| rest.ends_with(" is not signed."));
        let of_known = |address: &str| self.heard.iter().any(|heard| heard.contains(address));
        let summary = SUMMARIES.iter().any(|summary| said.starts_with(summary));
        (summary && !self.heard.is_empty()) || unsigned.and_then(|rest| rest.split(' ').next()).is_some_and(of_known)
    }

    /// All errors as one text. The first package that could not be downloaded stands for the others.
    pub(super) fn text(&self) -> String {
        let is_package = |heard: &&str| heard.starts_with("Failed to fetch ") && heard.contains(".deb  ");
        let heard = self.heard.iter().map(String::as_str);
        let packages: Vec<&str> = heard.clone().filter(is_package).skip(1).collect();
        let more = match packages.len() {
            0 => String::new(),
            1 => "; one more package could not be fetched either".to_owned(),
            count => format!("; {count} more packages could not be fetched either"),
        };
        heard.filter(|heard| !packages.contains(heard)).collect::<Vec<_>>().join("; ") + &more
    }
}

/// An error without the address at its end, which is no help: `[IP: 192.0.2.1 80]`.
fn without_address(said: &str) -> &str {
    said.rsplit_once(" [IP: ").filter(|(_, address)| address.ends_with(']')).map_or(said, |(said, _)| said)
}

/// Reads `apt-cache show`: paragraphs of an index (deb822(5)), of which an empty line ends each.
pub(super) fn parse_offered(text: &str) -> Offered {
    let paragraph = |paragraph: &str| {
        let field =
            |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim);
        let number = |name: &str| field(name).and_then(|size| size.parse().ok()).unwrap_or(0);
        let offer = Offer {
            architecture: field("Architecture")?.to_owned(),
            installed_size: number("Installed-Size"),
            size: number("Size"),
            sha256: field("SHA256").map(str::to_owned),
        };
        Some((field("Package")?.to_owned(), offer))
    };
    Offered::of(text.split("\n\n").filter_map(paragraph))
}

/// Reads `apt-cache policy`: the candidate, and the table of versions, which begins with the newest. Below each version are its sources,
/// and dpkg's status file if it is installed.
pub(super) fn parse_versions(text: &str) -> Versions {
    let candidate = text.lines().find_map(|line| line.trim_start().strip_prefix("Candidate:")).map(str::trim);
    let candidate = candidate.filter(|version| *version != "(none)" && !version.is_empty());
    let mut table = text.lines().skip_while(|line| line.trim() != "Version table:").skip(1).peekable();
    let newest = table.peek().and_then(|line| line.split_whitespace().find(|word| *word != "***"));
    Versions {
        candidate: candidate.map(str::to_owned),
        passed_over: newest.filter(|newest| candidate.is_some_and(|it| it != *newest)).map(str::to_owned),
        // Versions are less far in: ` *** 1.2.1 100`. Priorities have four places.
        is_offered: table.any(|line| line.starts_with("       ") && !line.ends_with("/var/lib/dpkg/status")),
    }
}

/// Reads `Inst`, `Conf`, `Remv` and `Purg` lines and the paragraph of packages kept back. Lines it does not know are passed over.
pub(super) fn parse_simulation(text: &str) -> Simulation {
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
    simulation.unfinished.retain(|package| !simulation.changes.iter().any(|change| change.package == **package));
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
    Some(Change { package: package.into(), kind, origins })
}

/// Reads lines of five fields with tabs in between. A field that a source does not have is its own name, `$(CODENAME)`.
pub(super) fn parse_sources(text: &str) -> Vec<Source> {
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
pub(super) fn parse_conflicts(text: &str) -> Vec<String> {
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
pub(super) fn parse_status(line: &str) -> Option<AptStatus<'_>> {
    let mut rest = line.strip_prefix("pmstatus:").or_else(|| line.strip_prefix("dlstatus:"))?;
    // The percentage is the first field that is a number with a point in it.
    while let Some((field, after)) = rest.split_once(':') {
        if let Some((whole, _)) = field.split_once('.')
            && let Ok(percent) = whole.parse::<u8>()
        {
            return Some(AptStatus::Progress { percent: percent.min(100), what: after.trim() });
        }
        rest = after;
    }
    None
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

    fn complaints(lines: &[&str]) -> Complaints {
        let mut complaints = Complaints::default();
        for line in lines {
            complaints.listen(line, &["E: "]);
        }
        complaints
    }

    #[test]
    fn what_follows_from_another_complaint_is_not_repeated() {
        let text = |lines: &[&str]| complaints(lines).text();
        assert_eq!(
            text(&[
                "E: Failed to fetch http://a/dists/x/InRelease  503  Service Unavailable [IP: 192.0.2.1 80]",
                "E: The repository 'http://a x InRelease' is not signed.",
                "E: The repository 'http://b x Release' is not signed.",
                "E: Some index files failed to download. They have been ignored, or old ones used instead.",
            ]),
            "Failed to fetch http://a/dists/x/InRelease  503  Service Unavailable; \
             The repository 'http://b x Release' is not signed."
        );
        let packages =
            ["a", "b", "c"].map(|name| format!("E: Failed to fetch http://a/pool/{name}_1_all.deb  404  Not Found"));
        let [a, b, c] = packages.each_ref().map(String::as_str);
        let end = "E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?";
        let first = "Failed to fetch http://a/pool/a_1_all.deb  404  Not Found";
        assert_eq!(text(&[a, end]), first);
        assert_eq!(text(&[a, b, end]), format!("{first}; one more package could not be fetched either"));
        assert_eq!(text(&[a, b, c, end]), format!("{first}; 2 more packages could not be fetched either"));
        assert_eq!(text(&[end]), end[3..]);
    }

    #[test]
    fn an_error_is_what_was_complained_of_first() {
        let complaints = complaints(&[
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
        ]);
        assert_eq!(
            complaints.heard,
            ["dpkg: error processing package dahdi (--configure): installed dahdi package post-installation script \
              subprocess returned error exit status 1"]
        );
    }

    #[test]
    fn versions_are_read_with_the_candidate_and_whether_a_source_offers_one() {
        let table = |candidate: &str| {
            format!(
                "xivo:\n  Installed: 1.2.1\n  Candidate: {candidate}\n  Version table:\n     1:1.2.2~rc1 500\n        \
                 500 http://a stable/main amd64 Packages\n *** 1.2.1 1001\n        100 /var/lib/dpkg/status\n"
            )
        };
        let policy = |candidate: &str, passed_over: Option<&str>, is_offered| Versions {
            candidate: Some(candidate.to_owned()),
            passed_over: passed_over.map(str::to_owned),
            is_offered,
        };
        assert_eq!(parse_versions(&table("1.2.1")), policy("1.2.1", Some("1:1.2.2~rc1"), true));
        assert_eq!(parse_versions(&table("1:1.2.2~rc1")), policy("1:1.2.2~rc1", None, true));
        assert!(parse_versions(&table("1.2.1").replace(" 500 http", "1001 http")).is_offered, "a pin of four digits");
        let only_installed =
            "xivo:\n  Installed: 1\n  Candidate: 1\n  Version table:\n *** 1 100\n        100 /var/lib/dpkg/status\n";
        assert_eq!(parse_versions(only_installed), policy("1", None, false));
        let unknown = "xivo:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        assert_eq!((parse_versions(unknown), parse_versions("")), (Versions::default(), Versions::default()));
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
        let progress = |percent, what| Some(AptStatus::Progress { percent, what });
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
        (NAME, kind).prop_map(|(package, kind)| {
            let origins = if matches!(kind, ChangeKind::Remove { .. }) { vec![] } else { vec!["XiVO".to_owned()] };
            Change { package: package.into(), kind, origins }
        })
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
        fn no_text_is_too_strange_for_a_parser(text in "(?s).{0,200}", mark in "(Inst|Remv|Purg|Conf|E:|'|Candidate:|pmstatus:|dlstatus:|\t| ) ?") {
            for text in [&text, &format!("{mark}{text}"), &format!("{text}\n{mark}{text}")] {
                parse_simulation(text);
                parse_versions(text);
                parse_sources(text);
                parse_conflicts(text);
                for line in text.lines() {
                    let _ = parse_status(line);
                }
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
            prop_assert_eq!(parse_versions(&policy).candidate, Some(version));
        }

        #[test]
        fn what_apt_complains_of_first_is_always_heard(said in "[a-z][a-z ]{0,30}", before in prop::collection::vec("[A-Z][a-z ]{0,20}", 0..3)) {
            let error = format!("E: {said}");
            let lines: Vec<&str> = before.iter().chain([&error]).map(String::as_str).collect();
            prop_assert_eq!(complaints(&lines).heard, [said.trim_end()]);
        }
    }
}
