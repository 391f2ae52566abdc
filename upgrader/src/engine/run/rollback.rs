//! The steps of a rollback, and the loop over them. The admin's verb is in `rollback_verb`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::resume::needs_human;
use super::{Run, finish};
use crate::database;
use crate::engine::journal::{Journal, JournalEntry};
use crate::engine::restart::restart_old;
use crate::engine::steps::{Reached, drive};
use crate::exit::{Exit, Explain as _, Failure, Stopped};
use crate::model::event::Event;
use crate::model::events::Events;
use crate::model::step::{Mode, Outcome, Step};
use crate::rollback::{self, Damage, Store};
use crate::system::policy_rc_d::Policy;
use crate::system::{dpkg, filesystems, package_locks, processes, reboot, systemd};

/// The reason in the journal of a rollback that the admin asked for.
const ASKED_FOR: &str = "the admin asked for it";

impl Run<'_> {
    /// Fails if rollback data is missing or damaged, or if a filesystem cannot take what a rollback writes.
    pub(super) fn judge(store: &Store, log: impl std::fmt::Display) -> Result<()> {
        let damages: Vec<Damage> = store.check()?.into_iter().filter(Damage::is_fatal).collect();
        let Some(first) = damages.first() else { return store.check_filesystems() };
        let more = if damages.len() == 1 { String::new() } else { format!(" (and {} more)", damages.len() - 1) };
        Err(Failure::new(format!("cannot roll back, nothing was changed: the rollback data is damaged: {first}{more}"))
            .remedy(format!(
                "See {log}. `apt-get -f install` and `dpkg --configure -a` complete partially installed packages; the old version is \
                 in your backups and in the package sources."
            ))
            .exit(Exit::NeedsHuman)
            .into())
    }

    /// Records the beginning of a rollback.
    pub(super) fn begin_rollback(&mut self, reason: String, events: &mut Events<'_>) -> Result<()> {
        let mut past = Journal::read(self.context.paths)?.context("there is no journal")?;
        if self.journal.is_none() {
            self.journal = Journal::open(self.context.paths)?.map(|(journal, _)| journal);
        }
        let to = past.plan.comes_from().to_owned();
        // Without this entry, the next process would continue the upgrade on files that are partially restored.
        self.journal
            .as_mut()
            .context("there is no journal")?
            .write_if_space(JournalEntry::RollingBack(reason.clone()))?;
        past.rolling_back = Some(reason);
        self.past = Some(past);
        events.emit(Event::RollingBack { product: self.product.name.clone(), to });
        Ok(())
    }

    /// Performs, in the worker, a rollback that the admin has confirmed.
    pub(super) fn roll_back_as_asked(&mut self, events: &mut Events<'_>) -> Result<Exit, Stopped> {
        let mut journal = Journal::reopen(self.context.paths)?.context("there is no journal")?;
        journal.write_if_space(JournalEntry::RollingBack(ASKED_FOR.to_owned()))?;
        self.journal = Some(journal);
        let mut past = Journal::read(self.context.paths)?.context("there is no journal")?;
        past.rolling_back.get_or_insert_with(|| ASKED_FOR.to_owned());
        self.past = Some(past);
        self.perform_rollback(events)
    }

    /// Performs a rollback at boot.
    pub(super) fn roll_back_at_boot(&mut self, events: &mut Events<'_>) -> Result<Exit, Stopped> {
        // On a full disk the journal may not say so.
        let past = self.past.as_ref().filter(|past| past.rolling_back.is_some());
        let past = past.context("this run is not being rolled back")?;
        events.emit(Event::RollingBack { product: self.product.name.clone(), to: past.plan.comes_from().to_owned() });
        let mut journal = Journal::reopen(self.context.paths)?.context("there is no journal")?;
        journal.write_if_space(JournalEntry::Resumed {
            plan: Box::new(past.latest_plan().clone()),
            at_boot: true,
            boot: reboot::boot_id(),
        })?;
        self.journal = Some(journal);
        self.perform_rollback(events)
    }

    /// Performs the steps of a rollback. Each can be repeated: it skips paths that are restored already.
    pub(super) fn perform_rollback(&mut self, events: &mut Events<'_>) -> Result<Exit, Stopped> {
        let reached = drive(
            Step::RollBack,
            |_| true,
            Mode::Upgrade,
            events,
            |step, events| {
                if self.is_rollback_step_done(step) {
                    events.emit(Event::StepAlreadyDone(step));
                    return Ok(Outcome::Done);
                }
                Self::stop_at_shutdown()?;
                // Errors of the journal are ignored: the disk may be full, and the rollback frees space.
                let _ = self.note(JournalEntry::StepBegan(step));
                let outcome = self.perform(step, events)?;
                // An error here must not keep the services down. What is restored is synced where it is restored.
                let _ = filesystems::sync();
                let _ = self.note(JournalEntry::StepEnded(step));
                Ok(outcome)
            },
        );
        match reached {
            Ok(Reached::End(_, exit)) => {
                // A rollback that the admin asked for is a success.
                let exit = if self.is_asked_for() { Exit::Done } else { exit };
                self.close_rollback(events);
                let message = self.rollback_summary(events).map_err(needs_human)?;
                events.emit(Event::Finished { exit, time: Timestamp::now(), message });
                Ok(exit)
            }
            Ok(Reached::Before(step)) => Err(anyhow::anyhow!("{step} was left out").into()),
            Err(stopped) if systemd::is_stopping() => Err(self.interrupted_by_shutdown(&stopped)),
            // Only a service failed: the rollback itself is complete.
            Err(stopped) if self.is_rolled_back() => {
                self.close_rollback(events);
                Err(stopped)
            }
            Err(stopped) => {
                let _ = self.note(JournalEntry::Stopped(Exit::NeedsHuman));
                Err(stopped)
            }
        }
    }

    /// True if an interrupted rollback has completed this step and it must not be repeated: it would undo what the old services have
    /// written since.
    fn is_rollback_step_done(&self, step: Step) -> bool {
        let has_ended = self.past.as_ref().is_some_and(|past| past.has_ended(step));
        match step {
            Step::RollBack => has_ended && self.not_as_it_was().is_ok_and(|wrong| wrong.is_empty()),
            Step::RollBackDatabase => has_ended,
            _ => false,
        }
    }

    /// Closes the journal and discards the rollback data. Errors do not change the outcome: the machine is rolled back.
    fn close_rollback(&mut self, events: &mut Events<'_>) {
        self.remove_boot_message();
        let closed = self.journal.take().map_or(Ok(()), Journal::close);
        if let Err(error) = closed.and_then(|()| rollback::discard(self.context.paths)) {
            let (state, command) = (self.context.paths.state(), self.context.paths.package());
            events.attention(
                format!("The data of this rollback could not be removed: {error:#}"),
                format!("Check the filesystem of {}. The next {command} removes it.", state.display()),
            );
        }
    }

    fn is_asked_for(&self) -> bool {
        self.past.as_ref().and_then(|past| past.rolling_back.as_deref()) == Some(ASKED_FOR)
    }

    fn rollback_summary(&self, events: &Events<'_>) -> Result<String> {
        let services = self.restarted.summary(&self.product.services);
        let version = self.installed_version()?;
        let mut message = format!("Rolled back to {} {version}; {services}.", self.product.name);
        if !self.is_asked_for() {
            let (log, command) = (self.context.paths.log(), self.context.paths.package());
            let why = format!("Fix the cause of the failure (see {})", log.display());
            message = format!("{message}\nWhat to do: {why}, then start {command} again.");
        }
        message.push_str(&finish::attention(events.report()));
        Ok(message)
    }

    /// Restores every path.
    pub(super) fn roll_back(&self, events: &mut Events<'_>) -> Result<Outcome> {
        let store = rollback::open(self.context.paths)?.context("no upgrade to roll back")?;
        Self::judge(&store, self.context.paths.log().display())?;
        if systemd::is_running() {
            // systemd needs the unit files to stop them.
            for unit in store.added_units()? {
                let _ = systemd::stop(&unit);
            }
        }
        let by_others = self.changed_by_others(&store)?;
        let (root, limit) = (self.context.paths.root(), self.context.config.time_limits.lock);
        let locks = package_locks::hold(root, limit, events).explain(|| {
            Failure::new("no path was restored")
                .remedy("Wait until the other program has ended, then start again.")
                .exit(Exit::NeedsHuman)
        })?;
        let mut last = None;
        let restored = store.restore(&mut |percent| {
            if last != Some(percent) {
                last = Some(percent);
                events.emit(Event::Progress { percent, what: "Restoring files".to_owned() });
            }
        });
        drop(locks);
        let restored = restored.explain(|| {
            let command = self.context.paths.package();
            Failure::new("the rollback is not complete").remedy(format!(
                "Fix this error (`dmesg` and `df` show the state of the disk), then `{command} rollback` completes it."
            ))
        })?;
        events.emit(Event::Restored { changed: restored.changed, removed: restored.removed });
        // A run that lost its power while packages changed could not take it away.
        if let Err(error) = Policy::remove_left_over(self.context.paths) {
            let policy = self.context.paths.policy();
            let message =
                format!("{}, which keeps packages from starting services, is still there: {error:#}", policy.display());
            events.attention(message, format!("Remove it: `rm {}`.", policy.display()));
        }
        if !by_others.is_empty() {
            let packages = by_others.join(" ");
            events.attention(
                format!("Changed by others since the upgrade, but recorded by dpkg as before it: {packages}"),
                format!("`apt-get install --reinstall {packages}`."),
            );
        }
        for path in restored.edited_in_place {
            events.attention(
                format!("{} was edited in place during the upgrade, and its old content was not saved", path.display()),
                "Install its package again, or restore it from a backup.",
            );
        }
        for path in restored.left {
            events.emit(Event::Output {
                source: "rollback".to_owned(),
                line: format!("{} was not changed", path.display()),
            });
        }
        if systemd::is_running() {
            // A newer systemd needs its own libraries to start services, and they are removed.
            let is_newer = processes::Processes::of_this_machine().replaced_file(1).is_some();
            if is_newer { systemd::reexecute() } else { systemd::reload() }?;
        }
        Ok(Outcome::Done)
    }

    /// The packages that were changed since the upgrade. After an interrupted rollback, those of the plan do not count: it may have
    /// restored them.
    fn changed_by_others(&self, store: &Store) -> Result<Vec<String>> {
        let mut packages = store.packages_since()?;
        if let Some(past) = self.past.as_ref().filter(|past| past.has_begun(Step::RollBack)) {
            let of_plan = |name: &String| past.plan.changes.iter().any(|change| change.package.bare() == name);
            packages.retain(|name| !of_plan(name));
        }
        Ok(packages)
    }

    /// Restores the database, if its migration had begun.
    pub(super) fn roll_back_database(&self, events: &mut Events<'_>) -> Result<Outcome> {
        let dump = self.past.as_ref().and_then(|past| past.dump.as_deref());
        if let (Some(database), Some(dump)) = (&self.product.database, dump) {
            database::restore(database, self.context.paths, dump, events)?;
        }
        Ok(Outcome::Done)
    }

    pub(super) fn restart_old(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        if !systemd::is_running() {
            return Ok(Outcome::Done);
        }
        self.hold_shutdown_off();
        let were_active = self.past.as_ref().map_or(&[][..], |past| &past.active);
        let processes = processes::Processes::of_this_machine();
        self.restarted = restart_old(&self.product.services, were_active, &processes, events)?;
        systemd::forget_gone()?;
        Ok(Outcome::Done)
    }

    /// Checks that the old packages are installed and the old services stay up.
    pub(super) fn verify_old(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        let wrong = self.not_as_it_was()?;
        if !wrong.is_empty() {
            return Err(Failure::new(format!("rolled back, but these packages differ: {}", wrong.join(", ")))
                .remedy(format!(
                    "See {}; `apt-get -f install` completes partially installed packages.",
                    self.context.paths.log().display()
                ))
                .into());
        }
        self.restarted.verify("the upgrade is rolled back", self.product.services.settle, events)?;
        let edited = self.edited_in_place()?;
        if let Some(first) = edited.first() {
            let more = if edited.len() == 1 { String::new() } else { format!(" and {} more", edited.len() - 1) };
            return Err(Failure::new(format!(
                "rolled back, except {}{more}: written in place during the upgrade, so the old content was not saved",
                first.display()
            ))
            .remedy("Install the package of that file again, or restore it from a backup.")
            .into());
        }
        Ok(Outcome::Done)
    }

    /// The files whose saved content the upgrade has changed.
    fn edited_in_place(&self) -> Result<Vec<PathBuf>> {
        rollback::open(self.context.paths)?.map_or_else(|| Ok(Vec::new()), |store| store.edited_in_place())
    }

    /// True if only services are left to check.
    fn is_rolled_back(&self) -> bool {
        let step = Journal::read(self.context.paths).ok().flatten().and_then(|past| past.step());
        step == Some(Step::VerifyOld) && self.not_as_it_was().is_ok_and(|wrong| wrong.is_empty())
    }

    /// The packages that differ from before the upgrade.
    fn not_as_it_was(&self) -> Result<Vec<String>> {
        let past = self.past.as_ref().context("there is no past")?;
        Ok(past.plan.not_rolled_back(&dpkg::packages()?).into_iter().map(str::to_owned).collect())
    }
}
