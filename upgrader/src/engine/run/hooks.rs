//! The two steps that run hooks, and what follows a failed one. A failed pre-upgrade hook ends the run before a package is changed. A
//! failed post-upgrade hook does not: the others run, the services are restarted, and the run ends with exit code 6.

use std::time::Instant;

use anyhow::Result;

use super::Run;
use crate::engine::journal::JournalEntry;
use crate::exit::Failure;
use crate::model::event::Event;
use crate::model::events::Events;
use crate::model::hook::{HookOutcome, Phase};
use crate::model::step::Outcome;
use crate::system::{filesystems, hooks};

impl Run<'_> {
    pub(super) fn hooks(&mut self, phase: Phase, events: &mut Events<'_>) -> Result<Outcome> {
        let found = match (hooks::find(&self.context.paths.hooks(phase)), phase) {
            (Ok(found), _) => found,
            (Err(error), Phase::PreUpgrade) => return Err(error),
            // The services must be restarted all the same.
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
            Self::stop_at_shutdown()?;
            self.note(JournalEntry::HookBegan(phase, path.clone()))?;
            events.emit(Event::HookBegan(phase, hook.clone()));
            let started = Instant::now();
            let limit = self.context.config.time_limits.hook;
            let ended = hooks::run(&path, phase, self.plan()?, limit, &mut events.output_of(&hook));
            let milliseconds = started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
            if !matches!(ended, HookOutcome::Failed(_)) {
                filesystems::sync()?;
                self.note(JournalEntry::HookEnded(phase, path.clone(), ended.clone()))?;
            }
            events.emit(Event::HookEnded { phase, hook: hook.clone(), ended: ended.clone(), milliseconds });
            match (phase, ended) {
                (_, HookOutcome::Done | HookOutcome::NotApplicable) => {}
                (Phase::PreUpgrade, HookOutcome::Failed(how)) => {
                    let message = format!("no package was changed: the pre-upgrade hook {hook} failed {how}");
                    let failure = Failure::new(message).remedy("Do what the hook asks for, then start again.");
                    return Err(failure.into());
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
}
