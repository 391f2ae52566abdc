//! An interrupted run: whether it is completed or rolled back, its journal, and what follows a failed step.

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::Run;
use crate::config::settings::RollbackPolicy;
use crate::engine::journal::{self, Journal, JournalEntry, PastRun};
use crate::engine::restart;
use crate::exit::{Exit, Explain as _, Failure, Stopped, code_of, remedy_of};
use crate::model::event::{Event, InterruptedRun};
use crate::model::events::Events;
use crate::model::step::{Mode, Step};
use crate::output::question::{self, Choice};
use crate::printable;
use crate::rollback::{self, Damage, Store};
use crate::system::{filesystems, hooks, package_locks, reboot, signals, systemd};

/// How often a run restores its packages after a power cut, and upgrades them again. After that it is rolled back.
const RESTORES: u32 = 3;

/// What happens with an interrupted run.
pub(super) enum ResumeChoice {
    /// There is none, or it is completed.
    Continue,
    RollBack,
    /// Nothing for now; the program ends with this exit code.
    Leave(Exit),
}

impl Run<'_> {
    /// Looks for an interrupted run, and asks what to do with it.
    pub(super) fn find_interrupted_run(&mut self, events: &mut Events<'_>) -> Result<ResumeChoice> {
        let Some(past) = Journal::read(self.context.paths)? else { return Ok(ResumeChoice::Continue) };
        if !past.has_changed_something() {
            self.forget(events)?;
            return Ok(ResumeChoice::Continue);
        }
        self.past = Some(past);
        let Some(past) = self.past.as_ref().filter(|past| past.was_interrupted()) else {
            return Ok(ResumeChoice::Continue);
        };
        let mode = self.context.options.mode();
        let found = self.describe_interrupted(past);
        events.emit(Event::Interrupted(found.clone()));
        if mode == Mode::DryRun {
            return Ok(ResumeChoice::Continue);
        }
        if mode == Mode::DownloadOnly {
            let command = self.context.paths.package();
            return Err(Failure::new("an interrupted upgrade must be completed first")
                .remedy(format!("`{command}` completes it or rolls it back."))
                .into());
        }
        let choice = if self.context.options.yes { Choice::Yes } else { self.prompt(&found) };
        let way = match choice {
            Choice::No => {
                let message = format!("{} was not changed: it is still partially upgraded.", found.product);
                return Ok(ResumeChoice::Leave(Self::decline(message, events)));
            }
            Choice::Yes if !found.rolling_back => ResumeChoice::Continue,
            Choice::Yes | Choice::RollBack => ResumeChoice::RollBack,
        };
        events.emit(Event::Answered(true));
        if let ResumeChoice::RollBack = way {
            events.emit(Event::RollingBack { product: found.product, to: found.from });
        } else {
            self.agreed = true;
            if self.roll_back_torn_packages(events).map_err(|error| needs_human(error).error)? {
                return Ok(ResumeChoice::RollBack);
            }
        }
        Ok(way)
    }

    /// After a power cut the disk may have only a part of what dpkg wrote. The rollback data is restored, and the run continues from the
    /// pre-upgrade hooks, with the downloaded packages. A run that was only killed is resumed where it was. True if the machine has lost its
    /// power too often: then the whole run is to be rolled back, and the journal says so.
    ///
    /// # Errors
    /// If the machine cannot be restored: it needs a human.
    pub(super) fn roll_back_torn_packages(&mut self, events: &mut Events<'_>) -> Result<bool> {
        let Some(past) = self.past.as_ref().filter(|past| past.lost_power_in_packages(&reboot::boot_id())) else {
            return Ok(false);
        };
        let restored = past.restored;
        if restored < RESTORES {
            self.restore_packages(events)
                .explain(|| Failure::new("the interrupted upgrade was not resumed").exit(Exit::NeedsHuman))?;
            return Ok(false);
        }
        let reason = format!("error: the machine lost its power {} times while packages changed", restored + 1);
        events.emit(Event::Failed(reason.clone()));
        self.begin_rollback(reason, events)?;
        self.journal = None;
        Ok(true)
    }

    fn restore_packages(&mut self, events: &mut Events<'_>) -> Result<()> {
        let paths = self.context.paths;
        let store = if journal::is_revertible(paths) { rollback::open(paths)? } else { None };
        let is_usable = |store: &Store| Ok(!store.check()?.iter().any(Damage::is_fatal));
        if !store.as_ref().map_or(anyhow::Ok(false), is_usable)? {
            events.attention(
                "The machine lost its power while packages changed, and there is no rollback data: files may have lost their content",
                "`dpkg --verify` names those that differ from their package; `apt-get install --reinstall PACKAGE` installs them again.",
            );
            return Ok(());
        }
        // Ctrl-C in the middle could leave a machine without its C library.
        signals::shield()?;
        package_locks::wait(paths.root(), self.context.config.time_limits.lock, events)?;
        let (mut journal, _) = Journal::open(paths)?.context("there is no journal")?;
        journal.write(JournalEntry::RollingBackPackages)?;
        self.roll_back(events)?;
        filesystems::sync()?;
        journal.write(JournalEntry::PackagesRolledBack)?;
        self.past = Journal::read(paths)?;
        Ok(())
    }

    pub(super) fn describe_interrupted(&self, past: &PastRun) -> InterruptedRun {
        InterruptedRun {
            product: self.product.name.clone(),
            from: past.plan.comes_from().to_owned(),
            to: past.latest_plan().candidate.clone(),
            step: past.step(),
            hook: past.hook().map(hooks::name),
            last: past.last,
            rolling_back: past.rolling_back.is_some(),
            can_roll_back: journal::is_revertible(self.context.paths),
        }
    }

    fn prompt(&self, found: &InterruptedRun) -> Choice {
        let question = if found.rolling_back {
            format!("Would you like to complete the rollback to {} {} now?", found.product, found.from)
        } else {
            format!("Would you like to complete the upgrade of {} to {} now?", found.product, found.to)
        };
        let back = (found.can_roll_back && !found.rolling_back).then(|| format!("r rolls back to {}", found.from));
        question::prompt(&question, back.as_deref(), self.context.options)
    }

    /// Removes the journal of a run that was interrupted before it changed anything.
    pub(super) fn forget(&self, events: &mut Events<'_>) -> Result<()> {
        let line = "an earlier run was interrupted before it changed anything".to_owned();
        events.emit(Event::Output { source: self.context.paths.package(), line });
        Journal::open(self.context.paths)?.map_or(Ok(()), |(journal, past)| self.drop_journal(journal, &past))
    }

    /// Removes the journal of a run that has changed nothing, and its rollback data. Rollback data of an earlier upgrade stays.
    fn drop_journal(&self, journal: Journal, past: &PastRun) -> Result<()> {
        if past.has_begun(Step::SaveRollbackData) {
            rollback::discard(self.context.paths)?;
        }
        journal.forget()
    }

    /// Opens the journal of the interrupted run, or a new one.
    pub(super) fn open_journal(&mut self, at_boot: bool, events: &Events<'_>) -> Result<()> {
        let plan = self.plan()?.clone();
        let paths = self.context.paths;
        // Before it is opened for writing, which a disk may refuse: a failure then says that the machine is partially upgraded.
        self.past = Journal::read(paths)?;
        if let Some((mut journal, _)) = Journal::open(paths)? {
            journal.write(JournalEntry::Resumed { plan: Box::new(plan), at_boot, boot: reboot::boot_id() })?;
            self.past = Journal::read(paths)?;
            self.journal = Some(journal);
        } else {
            let started = events.report().started.unwrap_or_else(Timestamp::now);
            self.journal = Some(Journal::begin(paths, started, &plan)?);
        }
        Ok(())
    }

    /// True if a step that the interrupted run completed has nothing left to do. Verify needs the services that were restarted.
    pub(super) fn is_done_with(&mut self, step: Step) -> Result<bool> {
        match step {
            Step::Packages => Ok(!self.plan()?.changes_packages()),
            Step::Migrate => Ok(self.plan()?.migrations.is_empty()),
            // The plan may cover more paths now.
            Step::SaveRollbackData => Ok(false),
            Step::Restart if systemd::is_running() => {
                self.restarted = restart::as_they_are(&self.product.services)?;
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    /// Closes the journal of a completed run. Errors do not fail the run.
    pub(super) fn close_journal(&mut self, events: &mut Events<'_>) {
        self.remove_boot_message();
        let (paths, command) = (self.context.paths, self.context.paths.package());
        let remedy = format!("Check the filesystem of {}", paths.state().display());
        let finalized = rollback::open(paths).and_then(|store| store.map_or(Ok(()), |store| store.finalize()));
        if let Err(error) = finalized {
            // A later rollback would also undo changes that follow this upgrade.
            let _ = rollback::discard(paths);
            let message = format!("This upgrade cannot be rolled back with `{command} rollback`: {error:#}");
            events.attention(message, format!("{remedy}."));
        }
        if let Err(error) = self.journal.take().map_or(Ok(()), Journal::close) {
            let message = format!("The next run will report this one as interrupted: {error:#}");
            events.attention(message, format!("{remedy}, then start {command} again."));
        }
    }

    /// Decides what follows a failed step: the run is dropped because nothing was changed, it is rolled back, or it needs a human.
    /// [`Step::rollback_step`] has the steps that are rolled back.
    pub(super) fn stopped(&mut self, stopped: Stopped, events: &mut Events<'_>) -> Result<Exit, Stopped> {
        let now = match Journal::read(self.context.paths).and_then(|past| past.context("there is no journal")) {
            Ok(now) => now,
            Err(error) => return Err(needs_human(stopped.error.context(format!("{error:#}")))),
        };
        let step = now.step().unwrap_or(Step::Repair);
        let is_first = self.past.is_none();
        let stopped = self.partially_upgraded(stopped);
        let exit = code_of(&stopped.error, stopped.exit);
        if now.has_changed_something() && systemd::is_stopping() {
            return Err(self.interrupted_by_shutdown(&stopped));
        }
        if exit == Exit::Unchanged && is_first {
            let dropped = self.journal.take().map_or(Ok(()), |journal| self.drop_journal(journal, &now));
            // What stopped the run is what the admin has to know, and what follows from the journal that is still there.
            let is_resumed = dropped.is_err() && now.has_changed_something();
            return Err(if is_resumed { self.not_forgotten(&stopped) } else { stopped });
        }
        // An interrupted run is rolled back whichever step fails.
        let can_roll_back = (step.rollback_step().is_some() || !is_first)
            && self.context.config.rollback == RollbackPolicy::Auto
            && journal::is_revertible(self.context.paths);
        if can_roll_back {
            // Without its remedy: that is for a machine without a rollback.
            let text = printable::line(&format!("error: {:#}", stopped.error)).into_owned();
            events.emit(Event::Failed(text.clone()));
            if !self.context.options.works() {
                crate::exit::complain(&text);
            }
            self.begin_rollback(text, events).map_err(|error| self.not_rolled_back(&error))?;
            return self.perform_rollback(events);
        }
        // Where that cannot be written, the run counts as interrupted, and the next one completes it, too.
        let _ = self.note(JournalEntry::Stopped(exit));
        // All services were restarted: another run would have nothing to do.
        if step == Step::Verify {
            self.close_journal(events);
        }
        Err(stopped)
    }

    /// What is said of a run whose rollback cannot begin.
    pub(super) fn not_rolled_back(&self, error: &anyhow::Error) -> Stopped {
        let command = self.context.paths.package();
        let remedy = format!(
            "`dmesg` shows the errors of a disk, `df` and `df -i` its space. Once it is well, `{command}` completes the upgrade, and \
             `{command} rollback` rolls it back."
        );
        let failure = Failure::new(format!("the upgrade has failed, and is not rolled back: {error:#}"));
        Stopped { error: failure.remedy(remedy).exit(Exit::NeedsHuman).into(), exit: Exit::NeedsHuman }
    }

    /// What is said of a run that has changed no package, and whose journal cannot be removed.
    fn not_forgotten(&self, stopped: &Stopped) -> Stopped {
        let command = self.context.paths.package();
        let remedy =
            remedy_of(&stopped.error).unwrap_or("`dmesg` shows the errors of a disk, `df` and `df -i` its space.");
        let remedy = format!(
            "{remedy} The journal could not be removed: the next boot or the next {command} completes this upgrade, unless \
             `{command} rollback` gives it up."
        );
        let text = format!("{:#}", stopped.error);
        Stopped { error: Failure::new(text).remedy(remedy).exit(Exit::Unchanged).into(), exit: Exit::Unchanged }
    }

    /// What is said of a run that a shutdown interrupts. The journal stays as it is, so that the unit at boot resumes the run.
    pub(super) fn interrupted_by_shutdown(&self, stopped: &Stopped) -> Stopped {
        let failure = Failure::new(format!("interrupted by the shutdown of the machine: {:#}", stopped.error));
        let command = self.context.paths.package();
        let remedy = format!("Nothing: the run is resumed at boot, and `{command} attach` shows it then.");
        Stopped { error: failure.remedy(remedy).exit(Exit::NeedsHuman).into(), exit: Exit::NeedsHuman }
    }

    /// Turns "nothing was changed" into "needs a human" if an interrupted run has changed the machine before.
    pub(super) fn partially_upgraded(&self, stopped: Stopped) -> Stopped {
        let Stopped { error, exit } = stopped;
        if self.past.is_none() || code_of(&error, exit) != Exit::Unchanged {
            return Stopped { error, exit };
        }
        needs_human(error)
    }
}

/// An error on a machine that is partially upgraded, or whose upgrade is partially rolled back.
#[expect(clippy::needless_pass_by_value, reason = "`Result::map_err` gives it away")]
pub(super) fn needs_human(error: anyhow::Error) -> Stopped {
    let text = format!("{error:#}");
    let remedy = remedy_of(&error).unwrap_or("Fix this error, then start again.").to_owned();
    let exit = Exit::NeedsHuman;
    Stopped { error: Failure::new(text).remedy(remedy).exit(exit).into(), exit }
}
