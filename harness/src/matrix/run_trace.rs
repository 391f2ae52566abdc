//! The trace of a run: hooks, restarts and their durations.

use std::collections::BTreeMap;

use anyhow::Result;

use super::check::Check;
use crate::machines::machine::Machine;
use crate::observe::timeline::{self, Events, Mark, Span, SpanKind};
use crate::packages::release::Release;
use crate::packages::shipped::SERVICES;

/// The trace of a run.
pub(crate) struct RunTrace {
    /// What its hooks and its services did.
    pub(crate) events: Events,
    /// What took how long.
    pub(crate) timeline: Vec<Span>,
    /// The units after which each service is ordered.
    after: BTreeMap<String, String>,
    /// The files of the upgrader's package.
    files: String,
}

impl RunTrace {
    /// Collects that of a run of an upgrader, whose package and command have this name, since a mark.
    pub(crate) fn collect(upgrader: &str, mark: &Mark, machine: &Machine, services: &[&str]) -> Result<Self> {
        let [events, log, after, files] = machine.ask([
            &Events::script(mark),
            &format!("cat /var/log/{upgrader}.log 2>/dev/null || :"),
            &format!("systemctl show --property=After --value -- {}", services.join(" ")),
            &format!("dpkg-query --listfiles {upgrader} 2>/dev/null || :"),
        ])?;
        let events = Events::read(&events, services)?;
        let timeline = timeline::of(&log, &events.transitions);
        let after = services.iter().map(|&name| name.to_owned()).zip(after.split("\n\n").map(str::to_owned)).collect();
        Ok(Self { events, timeline, after, files })
    }

    /// What is wrong with the restarts of an undisturbed run: a service that was restarted twice, or before one that systemd would start first.
    pub(crate) fn restarts(&self) -> Check {
        let mut findings = Vec::new();
        let order = self.events.restart_order();
        for (index, &service) in order.iter().enumerate() {
            let starts = self.events.starts.iter().filter(|start| *start == service).count();
            if starts > 1 {
                findings.push(format!("{service} was started {starts} times"));
            }
            let is_needed = |other: &&&str| {
                let unit = format!("{other}.service");
                self.after.get(service).is_some_and(|units| units.split_whitespace().any(|after| after == unit))
            };
            for late in order[index + 1..].iter().filter(is_needed) {
                findings.push(format!("{service} was started before {late}, though its unit is ordered after it"));
            }
        }
        ("every service was restarted once, in the order of its units", findings)
    }

    /// The hooks in the upgrader's own package that did not run.
    pub(crate) fn skipped_hooks(&self) -> Check {
        let ran = |name: &str| self.timeline.iter().any(|span| span.kind == SpanKind::Hook && span.name == name);
        let is_hook = |path: &&str| path.contains("/pre-upgrade.d/") || path.contains("/post-upgrade.d/");
        let hooks = self.files.lines().filter(is_hook);
        let skipped = hooks.filter(|path| path.rsplit('/').next().is_some_and(|name| !ran(name)));
        ("every hook that is shipped ran", skipped.map(str::to_owned).collect())
    }
}

/// The services of a release that the product does not declare: their maintainer scripts restart them in the middle of the upgrade, or not at
/// all, and the upgrader does not check that they stay up.
pub(super) fn undeclared_services(release: &Release) -> Check {
    let files = release.packages.iter().flat_map(|package| &package.files);
    let enabled = files.filter(|file| String::from_utf8_lossy(&file.content).contains("WantedBy=multi-user.target"));
    let names = enabled.filter_map(|file| {
        file.path.strip_prefix("/usr/lib/systemd/system/")?.strip_suffix(".service").map(str::to_owned)
    });
    let undeclared = names.filter(|name| !SERVICES.contains(&name.as_str())).collect();
    ("every service of the release is in the declared order", undeclared)
}
