//! The steps before the machine is changed: preflight, plan and question. Preflight collects the findings of all checks; those of the
//! machine alone are in [`crate::checks::preflight`].

use std::thread;

use anyhow::Result;

use super::Run;
use crate::checks::pair;
use crate::checks::preflight;
use crate::checks::validated;
use crate::config::settings::RollbackPolicy;
use crate::context::Context;
use crate::engine::planner;
use crate::exit::Failure;
use crate::model::event::Event;
use crate::model::events::Events;
use crate::model::finding::Finding;
use crate::model::plan::Plan;
use crate::model::policy::{ConffilePolicy, ValidationPolicy};
use crate::model::step::{Mode, Outcome, Step};
use crate::output::question::{self, Choice};
use crate::rollback;
use crate::system::policy_rc_d::Policy;
use crate::system::{package_locks, systemd};

impl Run<'_> {
    /// Runs all checks, and emits all findings: add a check here, or in [`preflight`].
    pub(super) fn preflight(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        let Context { paths, config, .. } = self.context;
        Policy::remove_left_over(paths)?;
        package_locks::wait(paths.root(), config.time_limits.lock, events)?;
        // The checks and the plan are computed at the same time.
        let (mut findings, draft) = thread::scope(|scope| {
            let draft = scope.spawn(|| self.compute_plan());
            (preflight::check(paths, self.product, systemd::is_running()), planner::join(draft))
        });
        let broken = draft.map(|plan| self.plan = Some(plan)).err();
        findings.extend(preflight::check_plan(paths, self.plan.as_ref(), self.rollback_space()));
        findings.extend(self.check_pair());
        findings.extend(self.check_validated());
        findings.extend(broken.as_ref().map(Finding::from));
        let is_ready = !findings.iter().any(|finding| finding.fatal);
        for finding in findings {
            events.emit(Event::Found(finding));
        }
        if is_ready {
            return Ok(Outcome::Done);
        }
        Err(Failure::new("preflight failed; nothing was changed")
            .remedy("Fix the problems above, then start again.")
            .into())
    }

    /// Checks the order of a pair's nodes. It does not matter for a dry run, a download and an interrupted run.
    fn check_pair(&self) -> Option<Finding> {
        let Context { paths, options, .. } = self.context;
        let is_free = options.ignore_peer || options.mode() != Mode::Upgrade || self.past.is_some();
        pair::check_plan(self.plan.as_ref()?, is_free, &paths.package())
    }

    /// The space that the rollback data needs on each filesystem.
    fn rollback_space(&self) -> Result<Vec<rollback::SpaceRequirement>> {
        let is_kept = self.past.as_ref().is_some_and(|past| past.has_ended(Step::SaveRollbackData));
        let changes_something = self.plan.as_ref().is_some_and(|plan| !plan.is_empty());
        if is_kept || !changes_something || self.context.config.rollback == RollbackPolicy::Never {
            return Ok(Vec::new());
        }
        rollback::measure(self.context.paths, &self.scope()?)
    }

    fn compute_plan(&self) -> Result<Plan> {
        let policies = (self.conffile_policy(), self.validated_rule());
        planner::compute(self.context.paths, self.product, self.installed_version()?, policies, self.past.as_ref())
    }

    /// The admin's setting, or else the product's.
    pub(super) fn validated_rule(&self) -> ValidationPolicy {
        self.context.config.validated.unwrap_or(self.product.packages.validated)
    }

    /// Checks for packages that the vendor has not validated. An interrupted run must be completed in any case.
    fn check_validated(&self) -> Option<Finding> {
        let plan = self.plan.as_ref().filter(|plan| self.past.is_none() && !plan.is_empty())?;
        validated::check_plan(self.validated_rule(), &self.product.name, &plan.candidate, plan.validated.as_ref())
    }

    /// The admin's setting, or else the product's.
    pub(super) fn conffile_policy(&self) -> ConffilePolicy {
        self.context.config.conffiles.unwrap_or(self.product.packages.conffiles)
    }

    pub(super) fn show_plan(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        let plan = self.plan()?;
        let own = plan.changes.iter().filter(|change| planner::is_of_product(plan, change, self.product));
        let own = own.map(|change| change.package.to_string()).collect();
        events.emit(Event::Planned { product: self.product.name.clone(), own, plan: Box::new(plan.clone()) });
        if !plan.kept_back.is_empty() {
            events.attention(
                format!("Held or kept back, so not as released: {}", plan.kept_back.join(" ")),
                "`apt-mark unhold` what is held (`apt-mark showhold`); `apt-get -s dist-upgrade` shows the rest.",
            );
        }
        Ok(if plan.is_empty() { Outcome::NothingToDo } else { Outcome::Done })
    }

    pub(super) fn confirm(&self, events: &mut Events<'_>) -> Result<Outcome> {
        let (plan, product) = (self.plan()?, self.product);
        // The admin's yes to an upgrade holds for the rest of it, and for no other change.
        let agreed_to = self.past.as_ref().map(|past| &past.latest_plan().changes).filter(|_| self.agreed);
        let is_agreed = agreed_to.is_some_and(|changes| {
            plan.changes.iter().all(|change| changes.iter().any(|agreed| change.ends_as(agreed)))
        });
        if self.context.options.yes || is_agreed {
            return Ok(Outcome::Done);
        }
        let question = if plan.changes_package(&product.version_package) {
            format!("Would you like to upgrade {} {} to {} now?", product.name, plan.installed, plan.candidate)
        } else if !plan.changes_packages() && plan.migrations.is_empty() {
            format!("Would you like to finish the upgrade of this {} {} now?", product.name, plan.installed)
        } else if !plan.changes_packages() {
            format!("Would you like to migrate the database of this {} {} now?", product.name, plan.installed)
        } else {
            format!("Would you like to upgrade the packages of this {} {} now?", product.name, plan.installed)
        };
        let yes = question::prompt(&question, None, self.context.options) == Choice::Yes;
        events.emit(Event::Answered(yes));
        Ok(if yes { Outcome::Done } else { Outcome::Declined })
    }
}
