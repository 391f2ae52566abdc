//! The screen: a subscriber that shows the events of a run. An event without a line here is in the log only.

mod plan;
mod rollback;
mod style;

use std::io::{self, Write};

use crate::context::Options;
use crate::model::event::{Event, SelfUpdateOutcome};
use crate::model::hook::HookOutcome;
use crate::model::step::Step;
use crate::output::renderer::Renderer;
pub(crate) use style::Style;

/// Seconds between two lines about a wait, where there is no bar.
const WAIT_STEP: u64 = 10;

/// The screen. A terminal has a progress bar as its last line; elsewhere there are plain lines.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "options, and what the last line is")]
pub(crate) struct Screen<W> {
    writer: W,
    /// Also shows every line that apt and the hooks print.
    verbose: bool,
    /// Shows only problems, and the plan if there is a question about it.
    quiet: bool,
    asks: bool,
    style: Style,
    /// The next line replaces the bar.
    ends_with_bar: bool,
    ends_empty: bool,
    /// True while the upgrader waits for another process.
    waiting: bool,
    /// What continues in the background: "upgrade" or "rollback".
    run: &'static str,
}

impl Screen<Box<dyn Write>> {
    /// The screen for these options.
    pub(crate) fn of(options: &Options) -> Self {
        let style = Style::of_this_process(options.json);
        Self {
            verbose: options.verbose,
            quiet: options.quiet,
            asks: !options.yes,
            ..Self::new(options.screen(), style)
        }
    }
}

impl<W: Write> Screen<W> {
    pub(crate) fn new(writer: W, style: Style) -> Self {
        Self {
            writer,
            verbose: false,
            quiet: false,
            asks: true,
            style,
            ends_with_bar: false,
            // The first line needs no empty line before it.
            ends_empty: true,
            waiting: false,
            run: "upgrade",
        }
    }

    #[cfg(test)]
    pub(super) fn verbose(self) -> Self {
        Self { verbose: true, ..self }
    }

    fn show(&mut self, event: &Event) -> io::Result<()> {
        if self.quiet && !self.is_shown_when_quiet(event) {
            return Ok(());
        }
        if matches!(event, Event::Ended(_)) {
            // Another program may write the next line.
            return self.remove_bar();
        }
        if let Event::Progress { percent, what } = event {
            return self.show_bar(&format!("{} {percent:>3} %  {what}", style::bar(*percent)));
        }
        if let Event::ServiceRestarting(service) = event {
            return self.show_bar(&format!("  {service:<24} ..."));
        }
        let mut lines = Vec::new();
        self.render(event, &mut lines)?;
        if lines.is_empty() {
            return Ok(());
        }
        self.remove_bar()?;
        self.ends_empty = lines.ends_with(b"\n\n");
        self.writer.write_all(&lines)?;
        self.writer.flush()
    }

    fn is_shown_when_quiet(&self, event: &Event) -> bool {
        match event {
            Event::Planned { .. } | Event::RollbackPreview(_) => self.asks,
            Event::Found(_)
            | Event::Interrupted(_)
            | Event::RollingBack { .. }
            | Event::ServiceDown { .. }
            | Event::ManagerReexecuted(Err(_))
            | Event::RestartRecommended(_)
            | Event::RebootRecommended(_)
            | Event::HookEnded { ended: HookOutcome::Failed(_), .. }
            | Event::Finished { .. } => true,
            _ => false,
        }
    }

    fn show_bar(&mut self, text: &str) -> io::Result<()> {
        let Some(width) = self.style.width() else { return Ok(()) };
        let text: String = text.chars().take(width.saturating_sub(1)).collect();
        self.ends_with_bar = true;
        write!(self.writer, "\r{text}\x1b[K")?;
        self.writer.flush()
    }

    /// Removes the bar now, because an error may follow on stderr.
    fn remove_bar(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.ends_with_bar) {
            write!(self.writer, "\r\x1b[K")?;
            self.writer.flush()?;
        }
        Ok(())
    }

    fn render(&mut self, event: &Event, out: &mut Vec<u8>) -> io::Result<()> {
        let style = self.style;
        if !matches!(event, Event::Waiting { .. } | Event::Output { .. }) {
            self.waiting = false;
        }
        if let Event::RollingBack { .. } = event {
            self.run = "rollback";
        }
        match event {
            Event::Began(step) => {
                if let Some(title) = title(*step) {
                    writeln!(out, "{title}")?;
                }
            }
            Event::SelfUpdate { package, from, to, outcome: SelfUpdateOutcome::Installed } => {
                writeln!(out, "Updating {package} {from} -> {to}")?;
            }
            Event::SelfUpdate { package, from, to, outcome: SelfUpdateOutcome::DryRun } => {
                writeln!(out, "Would first update {package} {from} -> {to}; what follows is planned by {from}")?;
            }
            Event::SelfUpdate { package, from, to, outcome: SelfUpdateOutcome::Held } => {
                writeln!(out, "{package} {to} is available but held: going on with {from}")?;
            }
            Event::Waiting { who, seconds } => {
                let text = format!("Waiting up to {seconds} s for {who} to release the dpkg lock");
                if style.width().is_some() {
                    return self.show_bar(&text);
                }
                if !std::mem::replace(&mut self.waiting, true) || seconds % WAIT_STEP == 0 {
                    writeln!(out, "{text}")?;
                }
            }
            Event::Found(finding) => {
                let word = if finding.fatal { style.bad("Problem") } else { "Note".to_owned() };
                writeln!(out, "{word}: {}", finding.what)?;
                writeln!(out, "  What to do: {}", finding.remedy)?;
            }
            Event::Planned { product, own, plan } => plan::show(out, product, own, plan)?,
            Event::Detached { unit: Some(_), command } => {
                writeln!(
                    out,
                    "The {} continues in the background; Ctrl-C only detaches. Reattach: {command} attach",
                    self.run
                )?;
            }
            Event::Detached { unit: None, .. } => writeln!(out, "From here on Ctrl-C is ignored")?,
            Event::Repairing => writeln!(out, "Finishing what dpkg was interrupted in")?,
            Event::HookSkipped(_, hook, reason) => writeln!(out, "  {hook}: skipped, {reason}")?,
            Event::HookEnded { hook, ended, milliseconds, .. } => {
                let took = duration(*milliseconds);
                match ended {
                    HookOutcome::Done => writeln!(out, "  {hook}: {}{took}", style.good("ok"))?,
                    HookOutcome::NotApplicable => writeln!(out, "  {hook}: not applicable here{took}")?,
                    HookOutcome::Failed(how) => writeln!(out, "  {hook}: {} {how}", style.bad("FAILED"))?,
                }
            }
            Event::DatabaseSaving { database, directory } => {
                writeln!(out, "Saving the database {database} to {directory}")?;
            }
            Event::Migrating(database) => writeln!(out, "Migrating the database {database}")?,
            Event::MigrationSkipped(name, reason) => writeln!(out, "  {name}: skipped, {reason}")?,
            Event::Migrated(name, Ok(())) => writeln!(out, "  {name}: {}", style.good("ok"))?,
            // The error follows, and ends the run.
            Event::Migrated(name, Err(_)) => writeln!(out, "  {name}: {}", style.bad("FAILED"))?,
            Event::ServiceUp { service, .. } => writeln!(out, "  {service:<24} {}", style.good("OK"))?,
            Event::ServiceDown { service, reason, log } => {
                writeln!(out, "  {service:<24} {}  {reason}", style.bad("NOK"))?;
                for line in log {
                    writeln!(out, "      {line}")?;
                }
            }
            Event::ServiceSkipped(service, reason) => writeln!(out, "  {service:<24} skipped: {reason}")?,
            Event::OthersRestarting(_) => writeln!(out, "Restarting other services that still run replaced files")?,
            Event::ManagerReexecuted(Ok(())) => {
                writeln!(out, "  {:<24} {}, re-executed", "systemd", style.good("OK"))?;
            }
            Event::ManagerReexecuted(Err(error)) => {
                writeln!(out, "  {:<24} {}  {error}", "systemd", style.bad("NOK"))?;
            }
            Event::RestartRecommended(what) => {
                writeln!(out, "Restart recommended; these still run replaced files")?;
                for (name, reason) in what {
                    writeln!(out, "  {name:<24} {reason}")?;
                }
            }
            Event::RebootRecommended(reasons) => {
                writeln!(out, "Reboot recommended")?;
                for reason in reasons {
                    writeln!(out, "  {reason}")?;
                }
            }
            Event::Output { source, line } if self.verbose => writeln!(out, "    {source}: {line}")?,
            Event::Finished { message, .. } if !message.is_empty() => {
                if !self.ends_empty {
                    writeln!(out)?;
                }
                writeln!(out, "{message}")?;
            }
            // The error follows on stderr.
            Event::Failed(_) | Event::Finished { .. } => self.remove_bar()?,
            _ => rollback::show(out, event)?,
        }
        Ok(())
    }
}

impl<W: Write> Renderer for Screen<W> {
    fn receive_clean(&mut self, event: &Event) {
        // A closed terminal must not end an upgrade.
        let _ = self.show(event);
    }
}

/// The line that a step begins with, if it has one.
fn title(step: Step) -> Option<&'static str> {
    match step {
        Step::Refresh => Some("Reading package lists"),
        Step::Download => Some("Downloading packages"),
        Step::PreUpgradeHooks => Some("Running pre-upgrade hooks"),
        Step::Packages => Some("Upgrading packages"),
        Step::PostUpgradeHooks => Some("Running post-upgrade hooks"),
        Step::Restart | Step::RestartOld => Some("Restarting services"),
        // Migrations have events of their own; without any, the step needs no line.
        _ => None,
    }
}

/// ` (62 s)` for 10 seconds or more.
fn duration(milliseconds: u64) -> String {
    if milliseconds < 10_000 { String::new() } else { format!(" ({} s)", milliseconds.saturating_add(500) / 1000) }
}

#[cfg(test)]
mod tests;
