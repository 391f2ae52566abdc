use std::collections::BTreeMap;

use anyhow::Result;

use super::record::{Kind, Span};
use crate::machine::Machine;
use crate::observation::Happened;
use crate::release::Release;
use crate::shipped::SERVICES;

/// What is wrong with the turns that the services had in a run with nothing in its way: more than one, or one before that of a service
/// which systemd would start first.
pub(crate) fn restarts(happened: &Happened, machine: &Machine, services: &[&str]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let order = happened.restart_order();
    for service in &order {
        let starts = happened.starts.iter().filter(|start| start == service).count();
        if starts > 1 {
            findings.push(format!("{service} was started {starts} times"));
        }
    }
    let shown = machine.sh(&format!("systemctl show --property=After --value -- {}", services.join(" ")))?;
    let after: BTreeMap<&str, &str> = services.iter().copied().zip(shown.split("\n\n")).collect();
    for (index, service) in order.iter().enumerate() {
        let is_needed = |other: &&&str| {
            let unit = format!("{other}.service");
            after.get(service).is_some_and(|units| units.split_whitespace().any(|after| after == unit))
        };
        for late in order[index + 1..].iter().filter(is_needed) {
            findings.push(format!("{service} was started before {late}, after which its unit wants to be"));
        }
    }
    Ok(findings)
}

/// The hooks among the files of the upgrader's own package that did not run.
pub(crate) fn hooks_left_out<'a>(files: impl IntoIterator<Item = &'a str>, timeline: &[Span]) -> Vec<String> {
    let ran = |name: &str| timeline.iter().any(|span| span.kind == Kind::Hook && span.name == name);
    let is_hook = |path: &&str| path.contains("/pre-upgrade.d/") || path.contains("/post-upgrade.d/");
    let hooks = files.into_iter().filter(is_hook);
    let left_out = hooks.filter(|path| path.rsplit('/').next().is_some_and(|name| !ran(name)));
    left_out.map(str::to_owned).collect()
}

/// The services of a release that are in no order: they are restarted by their maintainer scripts in the middle of the upgrade, or not
/// at all, and nobody looks whether they stay up.
pub(super) fn undeclared_services(release: &Release) -> Vec<String> {
    let files = release.packages.iter().flat_map(|package| &package.files);
    let enabled = files.filter(|file| String::from_utf8_lossy(&file.content).contains("WantedBy=multi-user.target"));
    let names = enabled.filter_map(|file| {
        file.path.strip_prefix("/usr/lib/systemd/system/")?.strip_suffix(".service").map(str::to_owned)
    });
    names.filter(|name| !SERVICES.contains(&name.as_str())).collect()
}
