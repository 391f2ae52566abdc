//! The screen, a reader of events.

mod plan;
mod services;
mod style;
mod way_back;

use std::io::{self, Write};

use crate::context::Options;
use crate::model::event::{Event, SelfUpdateOutcome, Subscriber};
use crate::model::hook::HookOutcome;
use crate::model::step::Step;
pub(crate) use style::Style;

/// How often a wait is told of on a screen whose lines stay, in seconds.
const WAIT_STEP: u64 = 10;

/// The screen: what the person sees of a run. On a terminal a bar moves at its end; elsewhere there are plain lines.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "what is wanted, and what is on it now")]
pub(crate) struct Screen<W> {
    writer: W,
    /// Also shows every line that apt and the hooks print.
    verbose: bool,
    /// Shows only what wants attention, and the plan if there is a question about it.
    quiet: bool,
    asks: bool,
    style: Style,
    /// True if the last line on it is a bar, which the next line replaces.
    ends_with_bar: bool,
    /// True if the last line on it is an empty one.
    ends_empty: bool,
    /// True while somebody else is waited for.
    waiting: bool,
}

impl Screen<Box<dyn Write>> {
    /// The screen that was asked for.
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
    /// A screen that shows what most people want to know.
    pub(crate) fn new(writer: W, style: Style) -> Self {
        Self {
            writer,
            verbose: false,
            quiet: false,
            asks: true,
            style,
            ends_with_bar: false,
            // There is nothing above the first line that it should keep away from.
            ends_empty: true,
            waiting: false,
        }
    }

    fn show(&mut self, event: &Event) -> io::Result<()> {
        if self.quiet && !self.is_worth_breaking_the_silence(event) {
            return Ok(());
        }
        if matches!(event, Event::Ended(_)) {
            // Whoever writes here next, another program perhaps, knows of no bar.
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

    fn is_worth_breaking_the_silence(&self, event: &Event) -> bool {
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

    /// Removes the bar at once: what comes next may be written by somebody else, to stderr.
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
                let (word, colour) = if finding.fatal {
                    ("Problem", Style::bad as fn(Style, &str) -> String)
                } else {
                    ("Note", Style::plain as _)
                };
                writeln!(out, "{}: {}", colour(style, word), finding.what)?;
                writeln!(out, "  What to do: {}", finding.remedy)?;
            }
            Event::Planned { product, own, plan } => plan::show(out, product, own, plan)?,
            Event::Detached { unit: Some(_), command } => {
                writeln!(
                    out,
                    "The upgrade continues in the background; Ctrl-C only detaches. Reattach: {command} attach"
                )?;
            }
            Event::Detached { unit: None, .. } => writeln!(out, "From here on Ctrl-C is ignored")?,
            Event::Interrupted(_)
            | Event::StepAlreadyDone(_)
            | Event::HookAlreadyDone(..)
            | Event::RollbackPreview(_)
            | Event::RollingBack { .. }
            | Event::Retrying(_)
            | Event::Restored { .. }
            | Event::DatabaseRestored { .. } => way_back::show(out, event)?,
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
            Event::ServiceUp { .. }
            | Event::ServiceDown { .. }
            | Event::ServiceSkipped(..)
            | Event::OthersRestarting(_)
            | Event::ManagerReexecuted(_)
            | Event::RestartRecommended(_)
            | Event::RebootRecommended(_) => services::show(out, style, event)?,
            Event::Output { source, line } if self.verbose => writeln!(out, "    {source}: {line}")?,
            Event::Finished { message, .. } if !message.is_empty() => {
                if !self.ends_empty {
                    writeln!(out)?;
                }
                writeln!(out, "{message}")?;
            }
            // A bar that was left half-way is none of what follows: what failed is said on stderr by the program, once, however
            // early it fails.
            Event::Failed(_) | Event::Finished { .. } => self.remove_bar()?,
            Event::Attention(_)
            | Event::Started { .. }
            | Event::Answered(_)
            | Event::Output { .. }
            | Event::Progress { .. }
            | Event::Conffile(_)
            | Event::DatabaseSaved { .. }
            | Event::RollbackDataSaved { .. }
            | Event::Ended(_)
            | Event::HookBegan(..)
            | Event::ServiceRestarting(_) => {}
        }
        Ok(())
    }
}

impl<W: Write> Subscriber for Screen<W> {
    fn receive(&mut self, event: &Event) {
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
        Step::Packages => Some("Upgrading packages"),
        Step::PostUpgradeHooks => Some("Running post-upgrade hooks"),
        Step::Restart | Step::RestartOld => Some("Restarting services"),
        // A database with nothing to migrate is not worth a line; one with something says so by events of its own.
        Step::Migrate
        | Step::SelfUpdate
        | Step::Preflight
        | Step::Plan
        | Step::Confirm
        | Step::Repair
        | Step::SaveRollbackData
        | Step::Verify
        | Step::RollBack
        | Step::RollBackDatabase
        | Step::VerifyOld => None,
    }
}

/// How long something took, if that is worth a word.
fn duration(milliseconds: u64) -> String {
    if milliseconds < 10_000 { String::new() } else { format!(" ({} s)", milliseconds.saturating_add(500) / 1000) }
}

#[cfg(test)]
mod tests;
