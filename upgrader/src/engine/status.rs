//! The verbs `status`, `status --drift` and `history`.

use std::io::{self, Write, stdout};

use anyhow::{Result, anyhow};
use serde::Serialize;

use crate::checks::pair;
use crate::checks::validated::{Drift, Set};
use crate::config::product::Product;
use crate::context::{Context, print_json};
use crate::engine::journal::{self, Journal};
use crate::exit::{Exit, Failure, Stopped, describe};
use crate::model::node::Node;
use crate::model::report::{Report, RunResult};
use crate::output::{follow, history};
use crate::printable;
use crate::system::processes::Processes;
use crate::system::{apt, dpkg, lock, reboot, systemd};

/// The version of the JSON form of [`Status`].
const SCHEMA: u32 = 1;

/// What `status` shows.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Status {
    schema: u32,
    product: String,
    installed: Option<String>,
    candidate: Option<String>,
    /// The role of this machine in a pair; only for root.
    node: Option<Node>,
    /// Other users cannot read past runs and the files that processes run.
    seen_by_root: bool,
    under_way: bool,
    /// True if the last run was interrupted, or has left the machine partially upgraded.
    interrupted: bool,
    /// Why it is not known where an interrupted run was; only for root.
    journal_error: Option<String>,
    /// The version that `rollback` restores; only for root.
    rollback_to: Option<String>,
    last_run: Option<Report>,
    /// The product's enabled services that do not run, and their state.
    services_down: Vec<(String, String)>,
    /// The services that still run replaced files; only for root.
    replaced_files: Vec<String>,
    reboot_recommended: Vec<String>,
}

/// `NAME-upgrade status`: exit code 0, or 6 if something needs attention.
pub(crate) fn show(context: &Context<'_>) -> Result<Exit, Stopped> {
    let status = collect(context)?;
    print(context, &status, |out| render(&status, &context.paths.package(), out));
    Ok(if status.wants_attention() { Exit::Attention } else { Exit::Done })
}

/// `NAME-upgrade status --drift`: exit code 0, or 6 if the machine differs from the validated set.
pub(crate) fn show_drift(context: &Context<'_>) -> Result<Exit, Stopped> {
    let product = Product::read(&context.paths.product())?;
    let version = dpkg::installed_version(&product.version_package)?
        .ok_or_else(|| anyhow!(Failure::new(format!("{} is not installed on this machine", product.name))))?;
    let drift = Drift::of_machine(&Set::all(context.paths)?, &version, &context.paths.package())?;
    print(context, &drift, |mut out| drift.show(&product.name, &version, &mut out));
    Ok(if drift.is_one() { Exit::Attention } else { Exit::Done })
}

/// `NAME-upgrade history`.
pub(crate) fn show_history(context: &Context<'_>) -> Result<Exit, Stopped> {
    let mut reports = history::read(&context.paths.history())?;
    // The report of an interrupted run was written when it began; the journal has its last step.
    if let (Some(last), Ok(Some(past))) = (reports.first_mut(), Journal::read(context.paths)) {
        last.step = past.step();
    }
    let under_way = lock::is_taken(&context.paths.lock());
    print(context, &reports, |out| history::render(&reports, under_way, out));
    Ok(Exit::Done)
}

/// Prints a document as JSON, or by `render` for people.
fn print(context: &Context<'_>, document: &impl Serialize, render: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    if context.options.json {
        print_json(document);
    } else {
        let mut text = Vec::new();
        // A closed pipe (`| head`) is no error.
        let _ = render(&mut text)
            .and_then(|()| stdout().write_all(printable::lines(&String::from_utf8_lossy(&text)).as_bytes()));
    }
}

fn collect(context: &Context<'_>) -> Result<Status> {
    let paths = context.paths;
    let product = Product::read(&paths.product())?;
    let seen_by_root = rustix::process::geteuid().is_root();
    let is_taken = lock::is_taken(&paths.lock());
    let under_way = is_taken && follow::is_possible(context);
    let mut last_run = match history::read(&paths.history()) {
        // Other users may not read them.
        Err(_) if !seen_by_root => None,
        reports => reports?.into_iter().next(),
    };
    let (past, unreadable) = match Journal::read(paths) {
        Ok(past) => (past, None),
        // Other users may not read it.
        Err(_) if !seen_by_root => (None, None),
        Err(error) => (None, Some(error)),
    };
    if let Some(past) = &past {
        // The disk may have been too full for the report of this run.
        if last_run.as_ref().is_none_or(|report| report.started < Some(past.started)) {
            let (started, plan) = (Some(past.started), Some(past.plan.clone()));
            last_run = Some(Report { started, plan, ..Report::default() });
        }
        if let Some(report) = &mut last_run {
            report.step = past.step();
        }
    }
    // A run that has failed on a partially upgraded machine has to be completed, too.
    let was_interrupted = past.as_ref().is_some_and(|past| past.was_interrupted() || past.has_changed_something())
        || last_run.as_ref().is_some_and(|report| report.result == RunResult::Unfinished);
    let rollback_to = journal::revertible(paths).ok().flatten();
    let mut status = Status {
        schema: SCHEMA,
        seen_by_root,
        journal_error: unreadable.as_ref().map(describe),
        installed: dpkg::installed_version(&product.version_package)?,
        candidate: apt::versions(&product.version_package)?.candidate,
        under_way,
        interrupted: was_interrupted && !is_taken,
        rollback_to: rollback_to.filter(|_| !is_taken).map(|past| past.plan.comes_from().to_owned()),
        last_run,
        reboot_recommended: reboot::reasons(paths.root(), None),
        ..Status::default()
    };
    if status.seen_by_root {
        status.node = product.pair.as_ref().and_then(|pair| pair::inspect(pair).ok());
    }
    if systemd::is_running() {
        let order = &product.services.order;
        for (service, unit) in order.iter().zip(systemd::show(order)?) {
            let wanted = unit.load != "masked" && unit.file != "disabled";
            if wanted && !unit.is_active() && !unit.is_done() {
                status.services_down.push((service.clone(), unit.active));
            }
        }
        if status.seen_by_root {
            status.replaced_files = Processes::of_this_machine().obsolete()?.services.into_keys().collect();
        }
    }
    status.product = product.name;
    Ok(status)
}

impl Status {
    fn wants_attention(&self) -> bool {
        self.interrupted
            || self.journal_error.is_some()
            || self.installed.is_none()
            || !self.services_down.is_empty()
            || !self.replaced_files.is_empty()
            || !self.reboot_recommended.is_empty()
    }
}

fn render(status: &Status, command: &str, out: &mut dyn Write) -> io::Result<()> {
    let product = &status.product;
    match (&status.installed, &status.candidate) {
        (None, _) => writeln!(out, "{product} is not installed")?,
        (Some(installed), Some(candidate)) if candidate != installed => {
            writeln!(out, "{product} {installed} is installed; {candidate} is available")?;
        }
        (Some(installed), _) => {
            writeln!(out, "{product} {installed} is installed, the newest version that was known at the last refresh")?;
        }
    }
    if let Some(node) = &status.node {
        writeln!(out, "This node: {}", printable::line(&node.to_string()))?;
    }
    if status.under_way {
        writeln!(out, "An upgrade is under way: `{command} attach` shows it")?;
    } else if let Some(report) = &status.last_run {
        writeln!(out, "Last upgrade: {}", history::line(report, false))?;
        if status.interrupted {
            writeln!(out, "  What to do: `{command}` completes it or rolls it back.")?;
        }
    } else if status.seen_by_root {
        writeln!(out, "No upgrade yet")?;
    } else {
        writeln!(out, "Past upgrades and replaced files are visible to root only")?;
    }
    if let Some(error) = &status.journal_error {
        writeln!(out, "The last upgrade was interrupted.\n{}", error.replace('\n', "\n  "))?;
    }
    if let Some(version) = &status.rollback_to {
        writeln!(out, "`{command} rollback` rolls back to {version}")?;
    }
    if status.services_down.is_empty() {
        writeln!(out, "All enabled services are running")?;
    }
    for (service, state) in &status.services_down {
        writeln!(out, "{service} is {state}\n  What to do: `systemctl status {service}` shows why.")?;
    }
    if !status.replaced_files.is_empty() {
        let services = status.replaced_files.join(" ");
        writeln!(out, "Still running files that were replaced: {}", printable::line(&services))?;
        writeln!(out, "  What to do: `systemctl restart` what can be restarted now, and reboot later for the rest.")?;
    }
    for reason in &status.reboot_recommended {
        writeln!(out, "Reboot recommended: {}", printable::line(reason))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(status: &Status) -> String {
        let mut out = Vec::new();
        render(status, "acme-upgrade", &mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_machine_without_problems_needs_three_lines() {
        let status = Status {
            product: "Acme".to_owned(),
            installed: Some("2".to_owned()),
            candidate: Some("2".to_owned()),
            seen_by_root: true,
            ..Status::default()
        };
        assert!(!status.wants_attention());
        insta::assert_snapshot!(shown(&status), @r#"
        Acme 2 is installed, the newest version that was known at the last refresh
        No upgrade yet
        All enabled services are running
        "#);
    }

    #[test]
    fn a_journal_that_cannot_be_read_does_not_pass_for_an_upgrade_that_is_done() {
        let status = Status {
            product: "Acme".to_owned(),
            installed: Some("2".to_owned()),
            seen_by_root: true,
            journal_error: Some("error: /journal:1: this line is damaged\nWhat to do: Check the disk.".to_owned()),
            ..Status::default()
        };
        assert!(status.wants_attention());
        let shown = shown(&status);
        assert!(
            shown
                .contains("was interrupted.\nerror: /journal:1: this line is damaged\n  What to do: Check the disk.\n"),
            "{shown}"
        );
    }

    #[test]
    fn each_problem_is_shown_with_its_remedy() {
        let status = Status {
            product: "Acme".to_owned(),
            installed: Some("2".to_owned()),
            candidate: Some("3".to_owned()),
            interrupted: true,
            rollback_to: Some("1".to_owned()),
            last_run: Some(Report { step: Some(crate::model::step::Step::Packages), ..Report::default() }),
            services_down: vec![("asterisk".to_owned(), "failed".to_owned())],
            replaced_files: vec!["dbus.service".to_owned(), "ssh.service".to_owned()],
            reboot_recommended: vec!["a newer kernel".to_owned()],
            ..Status::default()
        };
        assert!(status.wants_attention());
        insta::assert_snapshot!(shown(&status), @r#"
        Acme 2 is installed; 3 is available
        Last upgrade: ?                    interrupted at the step packages
          What to do: `acme-upgrade` completes it or rolls it back.
        `acme-upgrade rollback` rolls back to 1
        asterisk is failed
          What to do: `systemctl status asterisk` shows why.
        Still running files that were replaced: dbus.service ssh.service
          What to do: `systemctl restart` what can be restarted now, and reboot later for the rest.
        Reboot recommended: a newer kernel
        "#);
    }
}
