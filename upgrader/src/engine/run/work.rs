//! The steps that change the machine; `hooks` has those that run hooks.

use std::path::Path;
use std::thread;

use anyhow::Result;

use super::Run;
use crate::config::settings::RollbackPolicy;
use crate::database;
use crate::engine::journal::{JournalEntry, PastRun};
use crate::engine::planner;
use crate::engine::restart::restart_all;
use crate::exit::{Exit, Explain as _, Failure, code_of, describe};
use crate::model::event::Event;
use crate::model::events::{AptStatus, Events};
use crate::model::hook::Phase;
use crate::model::package::PackageName;
use crate::model::policy::SyncPolicy;
use crate::model::step::{Outcome, Step};
use crate::rollback::{self, Scope};
use crate::system::conffiles::{self, ConffileReport};
use crate::system::policy_rc_d::Policy;
use crate::system::processes::{Processes, left_behind};
use crate::system::{apt, dpkg, filesystems, hooks, package_locks, reboot, systemd};

impl Run<'_> {
    pub(super) fn repair(&self, events: &mut Events<'_>) -> Result<Outcome> {
        events.emit(Event::Repairing);
        let _policy = self.hold_services_back()?;
        let conffiles = self.conffile_policy();
        let result = dpkg::configure(dpkg::PENDING, conffiles, &mut events.output_of("dpkg"));
        // A package may need others that this run has yet to unpack. apt can finish it unless dpkg still has updates to process.
        if self.past.is_none() || dpkg::was_interrupted(self.context.paths)? {
            result.explain(|| self.unfinished_packages())?;
        }
        Ok(Outcome::Done)
    }

    pub(super) fn hold_services_back(&self) -> Result<Policy> {
        Policy::hold_back(self.context.paths, &self.product.services.order).explain(|| {
            Failure::new("no package was changed: cannot keep packages from restarting services").exit(Exit::Unchanged)
        })
    }

    pub(super) fn unfinished_packages(&self) -> Failure {
        let (log, command) = (self.context.paths.log(), self.context.paths.package());
        Failure::new("not all packages were upgraded").remedy(format!(
            "See {}, fix the error, then start {command} again: it finishes the packages, runs the post-upgrade hooks and \
             restarts the services.",
            log.display()
        ))
    }

    /// Saves the rollback data. If the interrupted run has saved some, only paths that this plan changes in addition are added.
    pub(super) fn save_rollback_data(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        if self.context.config.rollback == RollbackPolicy::Never {
            rollback::discard(self.context.paths)?;
            return Ok(Outcome::Done);
        }
        let (paths, scope) = (self.context.paths, self.scope()?);
        let has_changed = |past: &PastRun| past.has_begun(Step::PreUpgradeHooks) || past.has_begun(Step::Packages);
        let saved = match &self.past {
            Some(past) if past.has_ended(Step::SaveRollbackData) => match rollback::open(paths) {
                Ok(Some(_)) => rollback::extend(paths, &scope, &mut |_| {}),
                Ok(None) => return Ok(Outcome::Done),
                // The run still has to be completed.
                Err(error) => {
                    let message = format!("This upgrade cannot be rolled back: {error:#}");
                    events.attention(message, "Check that filesystem before the next upgrade.");
                    return Ok(Outcome::Attention);
                }
            },
            // Data saved now would be of a partially upgraded machine; what is there is of an earlier upgrade.
            Some(past) if has_changed(past) => {
                rollback::discard(paths)?;
                return Ok(Outcome::Done);
            }
            _ => thread::scope(|threads| {
                // There is time for this now. If a hook or another program changes apt's answer, it is asked again.
                let has_hooks =
                    hooks::find(&paths.hooks(Phase::PreUpgrade)).map_or(true, |found| !found.hooks.is_empty());
                let last_changes = apt::last_changes(paths.root());
                let simulation = (!has_hooks).then(|| threads.spawn(apt::simulate));
                let saved = rollback::save(paths, &scope, &mut |_| {});
                let simulation = simulation.and_then(|simulation| planner::join(simulation).ok());
                self.simulation = simulation.map(|simulation| (simulation, last_changes));
                saved
            }),
        };
        let saved = saved.explain(|| {
            Failure::new("nothing was changed: the rollback data cannot be saved").remedy(
                "Fix the error, then start again; or set `rollback = \"never\"` to upgrade without rollback data.",
            )
        })?;
        self.has_rollback_data = true;
        events.emit(Event::RollbackDataSaved { paths: saved.paths, bytes: saved.bytes });
        if systemd::is_running() {
            self.note(JournalEntry::Active(systemd::active()?))?;
        }
        Ok(Outcome::Done)
    }

    /// What the rollback data has to cover.
    pub(super) fn scope(&self) -> Result<Scope> {
        let plan = self.plan()?;
        let changes = plan.changes.iter().map(|change| change.package.clone());
        Ok(Scope {
            packages: changes.chain(plan.unfinished.iter().map(PackageName::from)).collect(),
            declared: self.product.rollback.paths.clone(),
        })
    }

    pub(super) fn download(&self, events: &mut Events<'_>) -> Result<Outcome> {
        package_locks::wait(self.context.paths.root(), self.context.config.time_limits.lock, events)?;
        apt::download(self.context.config.time_limits.source, &mut events.apt_status())?;
        Ok(Outcome::Done)
    }

    /// Upgrades the packages, and reports what became of their conffiles.
    pub(super) fn packages(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        let last_changes = apt::last_changes(self.context.paths.root());
        let simulation =
            self.simulation.take().filter(|(_, then)| *then == last_changes).map(|(simulation, _)| simulation);
        let plan = self.plan()?;
        let changed = "the available upgrades have changed since the plan was shown";
        let now = simulation.map_or_else(apt::simulate, Ok).explain(|| Failure::new(changed).exit(Exit::Unchanged))?;
        // Of an interrupted run, dpkg may have finished packages since.
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
            || Failure::new("no package was changed: cannot prepare the upgrade of the packages").exit(Exit::Unchanged);
        let conffile_report =
            ConffileReport::begin(plan.changes.iter().map(|change| change.package.as_str())).explain(not_begun)?;
        if let Some(database) = &self.product.database {
            database::packages_will_change(database, self.context.paths).explain(not_begun)?;
        }
        let policy = self.hold_services_back()?;
        let sync = self.sync_policy();
        if sync == SyncPolicy::Deferred {
            left_behind::adopt().explain(not_begun)?;
        }
        let result = match sync {
            SyncPolicy::Each => self.dist_upgrade(sync, &|| {}, events),
            SyncPolicy::Deferred => filesystems::sync_during(|ask| self.dist_upgrade(sync, ask, events)),
        };
        if sync == SyncPolicy::Deferred {
            restart_left_behind(events);
        }
        drop(policy);
        // Also after a failure: some packages are upgraded.
        match conffile_report.finish() {
            Ok(entries) => {
                for entry in entries {
                    let _ = conffiles::difference(&entry, &mut events.output_of("diff"));
                    events.emit(Event::Conffile(entry));
                }
            }
            // The hooks and the restarts still have to follow.
            Err(error) => events.attention(
                format!("The changes of configuration files are not fully known: {error:#}"),
                "Look for files that end in .dpkg-old and .dpkg-dist below /etc.",
            ),
        }
        result.explain(|| self.unfinished_packages()).map(|()| Outcome::Done)
    }

    /// Without rollback data, and without systemd, which restarts daemons that are left behind, each file is synced.
    fn sync_policy(&self) -> SyncPolicy {
        if self.has_rollback_data && systemd::is_running() { self.context.config.sync } else { SyncPolicy::Each }
    }

    /// Tries twice, and asks for a sync after each package.
    fn dist_upgrade(&self, sync: SyncPolicy, ask_for_sync: &dyn Fn(), events: &mut Events<'_>) -> Result<()> {
        let conffiles = self.conffile_policy();
        let attempt = |sync: SyncPolicy, events: &mut Events<'_>| {
            let mut report = events.apt_status();
            apt::dist_upgrade(conffiles, sync, &mut |status| {
                if matches!(status, AptStatus::Progress { what, .. } if what.starts_with("Installed ")) {
                    ask_for_sync();
                }
                report(status);
            })
        };
        match attempt(sync, events) {
            Err(error) if code_of(&error, Exit::NeedsHuman) != Exit::Unchanged => {
                events.emit(Event::Retrying(describe(&error)));
                // An error shows again in apt's second try.
                let _ = dpkg::configure(dpkg::PENDING, conffiles, &mut events.output_of("dpkg"));
                // Under the filter, no program gains rights by its setuid bit: a script may need one that does.
                attempt(SyncPolicy::Each, events)
            }
            result => result,
        }
    }

    pub(super) fn migrate(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        if let Some(database) = &self.product.database {
            let (paths, days) = (self.context.paths, u32::from(self.context.config.keep.dump_days));
            let saved = &mut |dump: &Path| self.note(JournalEntry::Migrating(dump.to_owned()));
            database::migrate(database, paths, days, saved, events)?;
        }
        Ok(Outcome::Done)
    }

    pub(super) fn restart(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        if !systemd::is_running() {
            let message = "systemd does not run this machine: no service was restarted";
            events.attention(message, "Restart the machine, or its services.");
            return Ok(Outcome::Attention);
        }
        self.hold_shutdown_off();
        self.restarted = restart_all(&self.product.services, &Processes::of_this_machine(), events)?;
        Ok(Outcome::Done)
    }

    pub(super) fn verify(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        let result = self.restarted.verify("the packages are upgraded", self.product.services.settle, events);
        let reasons = reboot::reasons(self.context.paths.root(), self.plan.as_ref());
        if !reasons.is_empty() {
            events.emit(Event::RebootRecommended(reasons));
        }
        result.map(|()| Outcome::Done)
    }
}

/// Restarts the daemons that maintainer scripts have started while fsync(2) was deferred: what they write would not be synced.
fn restart_left_behind(events: &mut Events<'_>) {
    for left in Processes::of_this_machine().left_behind() {
        let (name, process) = (&left.name, left.process);
        if !left.is_daemon {
            events.attention(
                format!("{name} (process {process}), which a maintainer script had started, still runs, and its files are not synced"),
                format!("If it ends (`ps -p {process}`), run `sync` then; if it is a daemon, restart it."),
            );
        } else if let Err(error) = left.restart() {
            events.attention(
                format!("{name}, which a maintainer script had started, could not be restarted: {error:#}"),
                format!("Start {name} again."),
            );
        } else {
            let line =
                format!("{name} (process {process}) was started by a maintainer script, and is restarted with fsync");
            events.emit(Event::Output { source: "packages".to_owned(), line });
        }
    }
}
