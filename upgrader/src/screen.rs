use std::io::{self, Write};

use crate::event::{Event, Fate, Reader};
use crate::plan::{Change, ChangeKind, Plan};
use crate::step::Step;

/// The screen: what the person sees of a run, in plain lines.
#[derive(Debug)]
pub struct Screen<W> {
    writer: W,
    verbose: bool,
    /// True if the last line on it is an empty one.
    ends_empty: bool,
}

impl<W: Write> Screen<W> {
    /// A screen; a verbose one also shows every line that apt and the hooks print.
    pub fn new(writer: W, verbose: bool) -> Self {
        Self { writer, verbose, ends_empty: false }
    }

    fn show(&mut self, event: &Event) -> io::Result<()> {
        let out = &mut self.writer;
        match event {
            Event::Began(step) => match title(*step) {
                Some(title) => writeln!(out, "{title}")?,
                None => return Ok(()),
            },
            Event::SelfUpdate { package, from, to, fate: Fate::Installed } => {
                writeln!(out, "Updating {package} {from} -> {to}")?;
            }
            Event::SelfUpdate { package, from, to, fate: Fate::DryRun } => {
                writeln!(out, "Would first update {package} {from} -> {to}; what follows is planned by {from}")?;
            }
            Event::SelfUpdate { package, from, to, fate: Fate::Held } => {
                writeln!(out, "{package} {to} is available but held: going on with {from}")?;
            }
            Event::Planned { product, plan } => show_plan(out, product, plan)?,
            Event::Repairing => writeln!(out, "Finishing what dpkg was interrupted in")?,
            Event::HookSkipped(_, hook, reason) => writeln!(out, "  {hook}: skipped, {reason}")?,
            Event::HookEnded(_, hook, Ok(())) => writeln!(out, "  {hook}: ok")?,
            Event::HookEnded(_, hook, Err(error)) => {
                writeln!(out, "  {hook}: FAILED {error}")?;
            }
            Event::DatabaseSaving { database, directory } => {
                writeln!(out, "Saving the database {database} to {directory}")?;
            }
            Event::Migrating(database) => writeln!(out, "Migrating the database {database}")?,
            Event::MigrationSkipped(name, reason) => writeln!(out, "  {name}: skipped, {reason}")?,
            Event::Migrated(name, Ok(())) => writeln!(out, "  {name}: ok")?,
            // The error follows, and ends the run.
            Event::Migrated(name, Err(_)) => writeln!(out, "  {name}: FAILED")?,
            Event::ServiceRestarted(service, Ok(())) => writeln!(out, "  {service:<24} OK")?,
            Event::ServiceRestarted(service, Err(error)) => writeln!(out, "  {service:<24} NOK  {error}")?,
            Event::ServicesDown(down) => {
                for (service, state) in down {
                    writeln!(out, "  {service:<24} NOK  {state}")?;
                }
            }
            Event::Output { source, line } if self.verbose => writeln!(out, "    {source}: {line}")?,
            Event::Finished { message, .. } if !message.is_empty() => {
                if !self.ends_empty {
                    writeln!(out)?;
                }
                writeln!(out, "{message}")?;
            }
            // What failed is said on stderr by the program, once, however early it fails.
            Event::Failed(_)
            | Event::Finished { .. }
            | Event::Started { .. }
            | Event::Answered(_)
            | Event::Output { .. }
            | Event::Ended(_)
            | Event::HookBegan(..)
            | Event::DatabaseSaved { .. }
            | Event::ServiceRestarting(_) => return Ok(()),
        }
        self.ends_empty = matches!(event, Event::Planned { .. });
        self.writer.flush()
    }
}

impl<W: Write> Reader for Screen<W> {
    fn read(&mut self, event: &Event) {
        // A terminal that went away must not end an upgrade.
        let _ = self.show(event);
    }
}

/// The line that a step begins with; steps that are quick or speak for themselves have none.
fn title(step: Step) -> Option<&'static str> {
    match step {
        Step::Refresh => Some("Reading package lists"),
        Step::Download => Some("Downloading packages"),
        Step::PreUpgradeHooks => Some("Running pre-upgrade hooks"),
        Step::Packages => Some("Upgrading packages; from here on Ctrl-C does nothing"),
        Step::PostUpgradeHooks => Some("Running post-upgrade hooks"),
        Step::Restart => Some("Restarting services"),
        // A database with nothing to migrate is not worth a line; one with something says so by events of its own.
        Step::Migrate
        | Step::SelfUpdate
        | Step::Preflight
        | Step::Plan
        | Step::Confirm
        | Step::Repair
        | Step::Verify => None,
    }
}

fn show_plan(out: &mut dyn Write, product: &str, plan: &Plan) -> io::Result<()> {
    writeln!(out, "\n{product} installed version: {}", plan.installed)?;
    writeln!(out, "{product} candidate version: {}", plan.candidate)?;
    show_group(out, plan, "To upgrade", |kind| matches!(kind, ChangeKind::Upgrade { .. }))?;
    show_group(out, plan, "To install", |kind| matches!(kind, ChangeKind::Install { .. }))?;
    show_group(out, plan, "To remove", |kind| matches!(kind, ChangeKind::Remove { .. }))?;
    if !plan.unfinished.is_empty() {
        writeln!(
            out,
            "\nInstalled but not configured, to be finished ({}): {}",
            plan.unfinished.len(),
            plan.unfinished.join(" ")
        )?;
    }
    if !plan.kept_back.is_empty() {
        writeln!(out, "\nNot upgraded, held or kept back ({}): {}", plan.kept_back.len(), plan.kept_back.join(" "))?;
    }
    if !plan.migrations.is_empty() {
        writeln!(out, "\nDatabase migrations ({}): {}", plan.migrations.len(), plan.migrations.join(" "))?;
    }
    if !plan.is_empty() {
        writeln!(out, "\nDownload size: {}", size(plan.download))?;
        writeln!(out, "Services to restart, in this order: {}", plan.restart.join(" "))?;
    }
    writeln!(out)
}

/// The changes of one kind, below their title, if there are any.
fn show_group(out: &mut dyn Write, plan: &Plan, title: &str, belongs: fn(&ChangeKind) -> bool) -> io::Result<()> {
    let changes: Vec<&Change> = plan.changes.iter().filter(|change| belongs(&change.kind)).collect();
    if changes.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title} ({}):", changes.len())?;
    let width = changes.iter().map(|change| change.package.len()).max().unwrap_or(0);
    for change in changes {
        write!(out, "  {:<width$}  ", change.package)?;
        match &change.kind {
            ChangeKind::Upgrade { from, to } => writeln!(out, "{from} -> {to}")?,
            ChangeKind::Install { to: version } | ChangeKind::Remove { from: version } => writeln!(out, "{version}")?,
        }
    }
    Ok(())
}

/// A number of bytes as apt shows it: powers of a thousand, three digits.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // In tenths of the unit, rounded to the nearest.
    let (mut tenths, mut unit) = ((bytes.saturating_add(50)) / 100, 0);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths = (tenths + 500) / 1000;
        unit += 1;
    }
    if tenths < 1000 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", (tenths + 5) / 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use crate::hooks::Phase;

    fn shown(verbose: bool, events: &[Event]) -> String {
        let mut screen = Screen::new(Vec::new(), verbose);
        for event in events {
            screen.read(event);
        }
        String::from_utf8(screen.writer).expect("text")
    }

    fn change(package: &str, kind: ChangeKind) -> Change {
        Change { package: package.to_owned(), kind }
    }

    fn plan() -> Plan {
        Plan {
            installed: "1.2.1".to_owned(),
            candidate: "2:2023.1-rc1".to_owned(),
            changes: vec![
                change("asterisk", ChangeKind::Upgrade { from: "1:13".to_owned(), to: "1:16".to_owned() }),
                change("xivo", ChangeKind::Upgrade { from: "1.2.1".to_owned(), to: "2:2023.1-rc1".to_owned() }),
                change("xivo-new", ChangeKind::Install { to: "1".to_owned() }),
                change("xivo-old", ChangeKind::Remove { from: "0.9".to_owned() }),
            ],
            unfinished: vec!["half".to_owned()],
            kept_back: vec!["held".to_owned()],
            download: 12_345_678,
            migrations: vec!["003-a".to_owned(), "004-b".to_owned()],
            restart: vec!["postgresql".to_owned(), "asterisk".to_owned()],
        }
    }

    #[test]
    fn a_plan_is_shown_in_groups() {
        insta::assert_snapshot!(shown(false, &[Event::Planned { product: "XiVO".to_owned(), plan: plan() }]), @r#"

        XiVO installed version: 1.2.1
        XiVO candidate version: 2:2023.1-rc1

        To upgrade (2):
          asterisk  1:13 -> 1:16
          xivo      1.2.1 -> 2:2023.1-rc1

        To install (1):
          xivo-new  1

        To remove (1):
          xivo-old  0.9

        Installed but not configured, to be finished (1): half

        Not upgraded, held or kept back (1): held

        Database migrations (2): 003-a 004-b

        Download size: 12.3 MB
        Services to restart, in this order: postgresql asterisk
        "#);
    }

    #[test]
    fn what_fails_is_seen_between_what_went_well() {
        let failed = || Err("(exit status: 1): no".to_owned());
        insta::assert_snapshot!(shown(false, &[
            Event::Began(Step::PostUpgradeHooks),
            Event::HookSkipped(Phase::PostUpgrade, "README".to_owned(), "not executable".to_owned()),
            Event::HookEnded(Phase::PostUpgrade, "10-a".to_owned(), Ok(())),
            Event::HookEnded(Phase::PostUpgrade, "20-b".to_owned(), failed()),
            Event::Began(Step::Restart),
            Event::ServiceRestarted("postgresql".to_owned(), Ok(())),
            Event::ServiceRestarted("asterisk".to_owned(), failed()),
            Event::Finished { exit: Exit::NeedsHuman, message: "Look at it.".to_owned() },
        ]), @r#"
        Running post-upgrade hooks
          README: skipped, not executable
          10-a: ok
          20-b: FAILED (exit status: 1): no
        Restarting services
          postgresql               OK
          asterisk                 NOK  (exit status: 1): no

        Look at it.
        "#);
    }

    #[test]
    fn a_migration_is_shown_from_the_dump_to_the_one_that_fails() {
        insta::assert_snapshot!(shown(false, &[
            Event::Began(Step::Migrate),
            Event::DatabaseSaving { database: "asterisk".to_owned(), directory: "/var/lib/acme-upgrade/dumps".to_owned() },
            Event::DatabaseSaved { file: "/var/lib/acme-upgrade/dumps/a.dump".to_owned(), bytes: 1 },
            Event::Migrating("asterisk".to_owned()),
            Event::MigrationSkipped("README".to_owned(), "not a migration".to_owned()),
            Event::Migrated("003-a".to_owned(), Ok(())),
            Event::Migrated("004-b".to_owned(), Err("ERROR: no".to_owned())),
        ]), @r#"
        Saving the database asterisk to /var/lib/acme-upgrade/dumps
        Migrating the database asterisk
          README: skipped, not a migration
          003-a: ok
          004-b: FAILED
        "#);
    }

    #[test]
    fn the_output_of_programs_is_shown_when_asked_for() {
        let output = [Event::Output { source: "apt-get".to_owned(), line: "Hit:1".to_owned() }];
        assert_eq!(shown(false, &output), "");
        assert_eq!(shown(true, &output), "    apt-get: Hit:1\n");
    }

    #[test]
    fn sizes_are_shown_as_apt_shows_them() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (99_949, "99.9 kB"),
            (99_950, "100 kB"),
            (999_949, "1000 kB"),
            (12_345_678, "12.3 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }
}
