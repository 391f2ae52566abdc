//! How a run goes with nothing in its way.

use std::collections::BTreeMap;

use anyhow::Result;

use super::check::Check;
use super::record::{Kind, Span};
use super::timeline;
use crate::machines::machine::Machine;
use crate::observe::observation::{Happened, Mark};
use crate::packages::release::Release;
use crate::packages::shipped::SERVICES;

/// How a run went.
pub(crate) struct Course {
    /// What its hooks and its services did.
    pub(crate) happened: Happened,
    /// What took its time.
    pub(crate) timeline: Vec<Span>,
    /// The units after which each service wants to be.
    after: BTreeMap<String, String>,
}

impl Course {
    /// Of a run of an upgrader, whose command has this name, since a mark.
    pub(crate) fn of(upgrader: &str, mark: &Mark, machine: &Machine, services: &[&str]) -> Result<Self> {
        let [happened, log, after] = machine.ask([
            &Happened::script(mark),
            &format!("cat /var/log/{upgrader}.log 2>/dev/null || :"),
            &format!("systemctl show --property=After --value -- {}", services.join(" ")),
        ])?;
        let happened = Happened::read(&happened, services)?;
        let timeline = timeline::of(&log, &happened.turns);
        let after = services.iter().map(|&name| name.to_owned()).zip(after.split("\n\n").map(str::to_owned)).collect();
        Ok(Self { happened, timeline, after })
    }

    /// What is wrong with the turns that the services had, with nothing in the way of the run: more than one, or one before that of a service
    /// which systemd would start first.
    pub(crate) fn restarts(&self) -> Check {
        let mut findings = Vec::new();
        let order = self.happened.restart_order();
        for (index, &service) in order.iter().enumerate() {
            let starts = self.happened.starts.iter().filter(|start| *start == service).count();
            if starts > 1 {
                findings.push(format!("{service} was started {starts} times"));
            }
            let is_needed = |other: &&&str| {
                let unit = format!("{other}.service");
                self.after.get(service).is_some_and(|units| units.split_whitespace().any(|after| after == unit))
            };
            for late in order[index + 1..].iter().filter(is_needed) {
                findings.push(format!("{service} was started before {late}, after which its unit wants to be"));
            }
        }
        ("every service had one turn, after those that it needs", findings)
    }

    /// The hooks among the files of the upgrader's own package that did not run.
    pub(crate) fn hooks_left_out<'a>(&self, files: impl IntoIterator<Item = &'a str>) -> Check {
        let ran = |name: &str| self.timeline.iter().any(|span| span.kind == Kind::Hook && span.name == name);
        let is_hook = |path: &&str| path.contains("/pre-upgrade.d/") || path.contains("/post-upgrade.d/");
        let hooks = files.into_iter().filter(is_hook);
        let left_out = hooks.filter(|path| path.rsplit('/').next().is_some_and(|name| !ran(name)));
        ("every hook that is shipped ran", left_out.map(str::to_owned).collect())
    }
}

/// The services of a release that are in no order: they are restarted by their maintainer scripts in the middle of the upgrade, or not
/// at all, and nobody looks whether they stay up.
pub(super) fn undeclared_services(release: &Release) -> Check {
    let files = release.packages.iter().flat_map(|package| &package.files);
    let enabled = files.filter(|file| String::from_utf8_lossy(&file.content).contains("WantedBy=multi-user.target"));
    let names = enabled.filter_map(|file| {
        file.path.strip_prefix("/usr/lib/systemd/system/")?.strip_suffix(".service").map(str::to_owned)
    });
    let undeclared = names.filter(|name| !SERVICES.contains(&name.as_str())).collect();
    ("every service of the release is in the declared order", undeclared)
}
