//! The steps that change the machine.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::Run;
use crate::config::settings::RollbackPolicy;
use crate::database;
use crate::engine::journal::{JournalEntry, PastRun};
use crate::engine::restart::restart_all;
use crate::exit::{Exit, Explain as _, Failure, code_of, describe};
use crate::model::event::Event;
use crate::model::events::Events;
use crate::model::hook::{HookOutcome, Phase};
use crate::model::package::PackageName;
use crate::model::step::{Outcome, Step};
use crate::rollback::{self, Scope};
use crate::system::conffiles::{self, ConffileReport};
use crate::system::policy_rc_d::Policy;
use crate::system::processes::Processes;
use crate::system::{apt, dpkg, filesystems, hooks, package_locks, reboot, systemd};

/// The steps that change the machine: nobody needs to be there.
impl Run<'_> {
    pub(super) fn repair(&self, events: &mut Events<'_>) -> Result<Outcome> {
        events.emit(Event::Repairing);
        let _policy = self.hold_services_back()?;
        let conffiles = self.conffile_policy();
        let result = dpkg::configure_pending(conffiles, &mut events.output_of("dpkg"));
        // What cannot be configured now may need packages that this run has yet to unpack: once dpkg's own notes are in order, apt sees to it.
        if self.past.is_none() || dpkg::was_interrupted(self.context.paths)? {
            result.explain(|| self.unfinished_packages())?;
        }
        Ok(Outcome::Done)
    }

    pub(super) fn hold_services_back(&self) -> Result<Policy> {
        Policy::hold_back(self.context.paths, &self.product.services.order)
            .explain(|| Failure::new("no package was changed: the services cannot be held").exit(Exit::Unchanged))
    }

    pub(super) fn unfinished_packages(&self) -> Failure {
        let (log, command) = (self.context.paths.log(), self.context.paths.package());
        Failure::new("the packages were not upgraded to the end").remedy(format!(
            "See {}, mend what it names, then start {command} again: it finishes the packages, runs the post-upgrade hooks and \
             restarts the services.",
            log.display()
        ))
    }

    /// Keeps what would be needed to go back. What an earlier run has kept is of the version that the machine comes from: it
    /// stays, and what this plan changes beside is added.
    pub(super) fn save_rollback_data(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        if self.context.config.rollback == RollbackPolicy::Never {
            rollback::discard(self.context.paths)?;
            return Ok(Outcome::Done);
        }
        let (paths, scope) = (self.context.paths, self.scope()?);
        // A store that lies there while this run has none of its own is of an upgrade before it.
        let has_changed = |past: &PastRun| past.has_begun(Step::PreUpgradeHooks) || past.has_begun(Step::Packages);
        let saved = match &self.past {
            Some(past) if past.has_ended(Step::SaveRollbackData) => match rollback::open(paths) {
                Ok(Some(_)) => rollback::extend(paths, &scope, &mut |_| {}),
                Ok(None) => return Ok(Outcome::Done),
                // That is no reason to leave the machine partially upgraded.
                Err(error) => {
                    let message = format!("This upgrade cannot be undone: {error:#}");
                    events.attention(message, "Check that filesystem before the next upgrade.");
                    return Ok(Outcome::Attention);
                }
            },
            // The machine is half-way already: what is kept now would not be the version that it comes from.
            Some(past) if has_changed(past) => {
                rollback::discard(paths)?;
                return Ok(Outcome::Done);
            }
            _ => rollback::save(paths, &scope, &mut |_| {}),
        };
        let saved = saved.explain(|| {
            Failure::new("nothing was changed: what would be needed to go back cannot be kept")
                .remedy("See to what it names, then start again; `rollback = \"never\"` in the settings does without a way back.")
        })?;
        events.emit(Event::RollbackDataSaved { paths: saved.paths, bytes: saved.bytes });
        if systemd::is_running() {
            self.note(JournalEntry::Active(systemd::active()?))?;
        }
        Ok(Outcome::Done)
    }

    /// What the way back has to cover.
    pub(super) fn scope(&self) -> Result<Scope> {
        let plan = self.plan()?;
        let changes = plan.changes.iter().map(|change| change.package.clone());
        Ok(Scope {
            packages: changes.chain(plan.unfinished.iter().map(PackageName::from)).collect(),
            declared: self.product.rollback.paths.clone(),
        })
    }

    /// Runs the hooks of a phase. The first that fails before the upgrade stops the run; after it, the others still run.
    pub(super) fn hooks(&mut self, phase: Phase, events: &mut Events<'_>) -> Result<Outcome> {
        let found = match (hooks::find(&self.context.paths.hooks(phase)), phase) {
            (Ok(found), _) => found,
            (Err(error), Phase::PreUpgrade) => return Err(error),
            // The services must have their turn all the same.
            (Err(error), Phase::PostUpgrade) => {
                let message = format!("No post-upgrade hook was run: {error:#}");
                events.attention(message, "Make that directory readable, then run its hooks.");
                return Ok(Outcome::Attention);
            }
        };
        for (path, reason) in found.skipped {
            events.emit(Event::HookSkipped(phase, hooks::name(&path), reason.to_owned()));
        }
        let mut outcome = Outcome::Done;
        for path in found.hooks {
            let hook = hooks::name(&path);
            if self.past.as_ref().is_some_and(|past| past.has_run(phase, &path)) {
                events.emit(Event::HookAlreadyDone(phase, hook));
                continue;
            }
            self.note(JournalEntry::HookBegan(phase, path.clone()))?;
            events.emit(Event::HookBegan(phase, hook.clone()));
            let started = Instant::now();
            let ended = hooks::run(
                &path,
                phase,
                self.plan()?,
                self.context.config.time_limits.hook,
                &mut events.output_of(&hook),
            );
            let milliseconds = started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
            if !matches!(ended, HookOutcome::Failed(_)) {
                filesystems::sync()?;
                self.note(JournalEntry::HookEnded(phase, path.clone(), ended.clone()))?;
            }
            events.emit(Event::HookEnded { phase, hook: hook.clone(), ended: ended.clone(), milliseconds });
            match (phase, ended) {
                (_, HookOutcome::Done | HookOutcome::NotApplicable) => {}
                (Phase::PreUpgrade, HookOutcome::Failed(how)) => {
                    return Err(Failure::new(format!(
                        "no package was changed: the pre-upgrade hook {hook} failed {how}"
                    ))
                    .remedy("Do what the hook asks for, then start again.")
                    .into());
                }
                (Phase::PostUpgrade, HookOutcome::Failed(_)) => {
                    let (log, path) = (self.context.paths.log(), path.display());
                    let remedy = format!("See {}, then run {path} again.", log.display());
                    events.attention(format!("The post-upgrade hook {hook} failed"), remedy);
                    outcome = Outcome::Attention;
                }
            }
        }
        Ok(outcome)
    }

    /// Fetches and verifies every package that is needed.
    pub(super) fn download(&self, events: &mut Events<'_>) -> Result<Outcome> {
        package_locks::wait(self.context.paths.root(), self.context.config.time_limits.lock, events)?;
        apt::download(self.context.config.time_limits.source, &mut events.apt_status())?;
        Ok(Outcome::Done)
    }

    /// Upgrades the packages, and keeps the conffile_report of their conffiles.
    pub(super) fn packages(&self, events: &mut Events<'_>) -> Result<Outcome> {
        let plan = self.plan()?;
        let changed = "what there is to upgrade changed since it was shown";
        let now = apt::simulate().explain(|| Failure::new(changed).exit(Exit::Unchanged))?;
        // What dpkg was interrupted in may have been finished since: of a run that was cut short, less may be left.
        let as_shown = self.past.as_ref().map_or(now.changes == plan.changes, |past| {
            let shown = || plan.changes.iter().chain(&past.plan.changes);
            now.changes.iter().all(|change| shown().any(|shown| change.ends_as(shown)))
        });
        if !as_shown {
            return Err(Failure::new(format!("no package was changed: {changed}"))
                .remedy("Start again to see the new plan.")
                .exit(Exit::Unchanged)
                .into());
        }
        package_locks::wait(self.context.paths.root(), self.context.config.time_limits.lock, events)?;
        let not_begun =
            || Failure::new("no package was changed: what is needed before cannot be noted").exit(Exit::Unchanged);
        let conffile_report =
            ConffileReport::begin(plan.changes.iter().map(|change| change.package.as_str())).explain(not_begun)?;
        if let Some(database) = &self.product.database {
            database::packages_will_change(database, self.context.paths).explain(not_begun)?;
        }
        let policy = self.hold_services_back()?;
        let mut result = apt::dist_upgrade(self.conffile_policy(), &mut events.apt_status());
        if let Err(error) = &result
            && code_of(error, Exit::NeedsHuman) != Exit::Unchanged
        {
            events.emit(Event::Retrying(describe(error)));
            // What it cannot configure, apt complains of.
            let _ = dpkg::configure_pending(self.conffile_policy(), &mut events.output_of("dpkg"));
            result = apt::dist_upgrade(self.conffile_policy(), &mut events.apt_status());
        }
        drop(policy);
        // Also of an upgrade that went wrong: some of its packages are there.
        match conffile_report.finish() {
            Ok(entries) => {
                for entry in entries {
                    let _ = conffiles::difference(&entry, &mut events.output_of("diff"));
                    events.emit(Event::Conffile(entry));
                }
            }
            // The hooks and the restarts must follow all the same.
            Err(error) => events.attention(
                format!("The changes of configuration files are not fully known: {error:#}"),
                "Look for files that end in .dpkg-old and .dpkg-dist below /etc.",
            ),
        }
        result.explain(|| self.unfinished_packages()).map(|()| Outcome::Done)
    }

    /// Brings the database to the schema of the new packages.
    pub(super) fn migrate(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        if let Some(database) = &self.product.database {
            let (paths, days) = (self.context.paths, u32::from(self.context.config.keep.dump_days));
            let saved = &mut |dump: &Path| self.note(JournalEntry::Migrating(dump.to_owned()));
            database::migrate(database, paths, days, saved, events)?;
        }
        Ok(Outcome::Done)
    }

    /// Restarts the services.
    pub(super) fn restart(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        if !systemd::is_running() {
            let message = "systemd does not run this machine: no service was restarted";
            events.attention(message, "Restart the machine, or its services.");
            return Ok(Outcome::Attention);
        }
        self.restarted = restart_all(&self.product.services, &Processes::of_this_machine(), events)?;
        Ok(if self.restarted.is_well() { Outcome::Done } else { Outcome::Attention })
    }

    /// A service that did not come up, or did not stay up, needs a human.
    pub(super) fn verify(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        let result = self.restarted.verify("upgraded", self.product.services.settle, events);
        for attention in self.restarted.take_attention() {
            events.emit(Event::Attention(attention));
        }
        let reasons = reboot::reasons(self.context.paths.root(), self.plan.as_ref());
        if !reasons.is_empty() {
            events.emit(Event::RebootRecommended(reasons));
        }
        result.map(|()| Outcome::Done)
    }
}
