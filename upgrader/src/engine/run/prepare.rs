//! The steps that only look.

use std::io::stdin;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Result, anyhow};

use super::Run;
use crate::checks::pair;
use crate::checks::preflight;
use crate::checks::validated;
use crate::checks::validated::Set;
use crate::cli::Context;
use crate::config::settings::Rollback;
use crate::database;
use crate::engine::restart;
use crate::engine::worker;
use crate::exit::{Explain as _, Failure};
use crate::model::event::{Event, Events};
use crate::model::finding::Finding;
use crate::model::plan::{Change, ChangeKind, Plan};
use crate::model::policy::ConffilePolicy;
use crate::model::policy::ValidationPolicy;
use crate::model::step::{Mode, Outcome, Step};
use crate::output::history;
use crate::output::question::{ask, forget_typed_ahead};
use crate::rollback;
use crate::system::apt::{self, Simulation};
use crate::system::conffiles;
use crate::system::dpkg;
use crate::system::package_locks;
use crate::system::policy_rc_d::Policy;

/// The steps that only look: as long as they run, nothing has changed, and the person is there.
impl Run<'_> {
    /// What can be known to go wrong is known, all of it, before anything is touched.
    pub(super) fn preflight(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        let Context { paths, config, .. } = self.context;
        Policy::remove_left_over(paths)?;
        package_locks::wait(paths.root(), config.time_limits.lock, events)?;
        // What is looked at and what is computed do not wait for each other.
        let (mut findings, draft) = thread::scope(|scope| {
            let draft = scope.spawn(|| self.draft());
            (preflight::look(paths, self.product, worker::has_systemd()), answer(draft))
        });
        let broken = draft.map(|plan| self.plan = Some(plan)).err();
        findings.extend(preflight::look_at_plan(paths, self.plan.as_ref(), self.what_is_kept()));
        findings.extend(self.look_at_pair());
        findings.extend(self.look_at_validated());
        findings.extend(broken.as_ref().map(Finding::from));
        let is_ready = !findings.iter().any(|finding| finding.fatal);
        for finding in findings {
            events.tell(Event::Found(finding));
        }
        if is_ready {
            return Ok(Outcome::Done);
        }
        Err(Failure::new("this machine is not ready for an upgrade; nothing was changed")
            .remedy("Do what is said above, then start again.")
            .into())
    }

    /// What the other node of a pair has to say. What only looks at a plan, or goes on with one, is held up by nobody.
    fn look_at_pair(&self) -> Vec<Finding> {
        let Context { paths, options, .. } = self.context;
        let is_free = options.ignore_peer || options.mode() != Mode::Upgrade || self.past.is_some();
        let look = |plan| pair::look_at_plan(plan, is_free, &paths.package());
        self.plan.as_ref().map_or(Ok(Vec::new()), look).unwrap_or_else(|error| vec![Finding::from(&error)])
    }

    /// What going back takes on each filesystem.
    fn what_is_kept(&self) -> Result<Vec<rollback::Need>> {
        let is_kept = self.past.as_ref().is_some_and(|past| past.has_ended(Step::Arm));
        let changes_something = self.plan.as_ref().is_some_and(|plan| !plan.is_empty());
        if is_kept || !changes_something || self.context.config.rollback == Rollback::Never {
            return Ok(Vec::new());
        }
        rollback::measure(self.context.paths, &self.scope()?)
    }

    /// The plan, from what dpkg and apt say.
    fn draft(&self) -> Result<Plan> {
        let product = self.product;
        let installed = self.installed_version()?;
        let (candidate, simulation, download, node) = thread::scope(|scope| {
            let node = scope.spawn(|| product.pair.as_ref().map(pair::look).transpose());
            let candidate = scope.spawn(|| apt::candidate(&product.version_package));
            let download = scope.spawn(apt::download_size);
            let simulation = apt::simulate();
            (answer(candidate), simulation, answer(download), answer(node))
        });
        let candidate = candidate?.unwrap_or_else(|| installed.clone());
        let Simulation { changes, unfinished, kept_back } = simulation.explain(|| {
            Failure::new("apt finds no way to upgrade this machine").remedy(
                "`apt-get -s dist-upgrade` shows the same; often `dpkg --configure -a` or `apt-get -f install` helps.",
            )
        })?;
        let mut plan = Plan {
            installed,
            candidate,
            changes,
            unfinished,
            kept_back,
            download: download?,
            unfinished_from: self.past.as_ref().map(|past| past.plan.comes_from().to_owned()),
            restart: if worker::has_systemd() { restart::wanted(&product.services)? } else { Vec::new() },
            node: match (node, &self.past) {
                // What is half-way has to be completed whoever gives no answer; what hooks were told until then holds.
                (Err(_), Some(past)) => past.plan.node.clone(),
                (node, _) => node?,
            },
            last_outage_ms: history::last_outage(&self.context.paths.history()),
            ..Plan::default()
        };
        let upgrader = self.context.paths.package();
        let lost = plan.lost(product, &upgrader);
        if !lost.is_empty() {
            let why = apt::conflicts(&plan.changes, &lost)?;
            let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
            let message =
                format!("apt would remove {}, which {} cannot do without{why}", lost.join(", "), product.name);
            return Err(Failure::new(message)
                .remedy("See `apt-get -s dist-upgrade`; often a package from another source stands in the way.")
                .into());
        }
        let replaced: Vec<&str> = plan.upgraded().collect();
        plan.conffiles = conffiles::edited(&replaced, self.conffile_policy())?;
        if let Some(database) = &product.database {
            plan.migrations = database::survey(database, self.context.paths, plan.changes_packages())?.pending;
        }
        let (packages, offered) = (dpkg::packages()?, apt::offered(plan.new_versions())?);
        plan.measure(&packages, &offered);
        if let Some(past) = &self.past {
            plan.validated.clone_from(&past.plan.validated);
        } else if self.validated_rule() != ValidationPolicy::Ignore && !plan.is_empty() {
            let sets = Set::all(self.context.paths)?;
            plan.validated = validated::judge(&sets, &plan.candidate, &upgrader, &packages, &plan.changes, &offered);
        }
        Ok(plan)
    }

    /// What is done about packages that nobody has validated: the admin's word, or else the product's.
    pub(super) fn validated_rule(&self) -> ValidationPolicy {
        self.context.config.validated.unwrap_or(self.product.packages.validated)
    }

    /// What stands against packages that nobody has validated. A run that is half-way needs its rest.
    fn look_at_validated(&self) -> Vec<Finding> {
        let Some(plan) = self.plan.as_ref().filter(|plan| self.past.is_none() && !plan.is_empty()) else {
            return Vec::new();
        };
        validated::findings(self.validated_rule(), &self.product.name, &plan.candidate, plan.validated.as_ref())
    }

    /// What becomes of edited conffiles: the admin's word, or else the product's.
    pub(super) fn conffile_policy(&self) -> ConffilePolicy {
        self.context.config.conffiles.unwrap_or(self.product.packages.conffiles)
    }

    pub(super) fn show_plan(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        let plan = self.plan()?;
        let own = plan.changes.iter().filter(|change| plan.is_of_product(change, self.product));
        let own = own.map(|change| change.package.clone()).collect();
        events.tell(Event::Planned { product: self.product.name.clone(), own, plan: Box::new(plan.clone()) });
        if !plan.kept_back.is_empty() {
            events.tell(Event::Attention(format!(
                "Held or kept back, so not as released: {}. What to do: `apt-mark unhold` what is held (`apt-mark showhold`); \
                 `apt-get -s dist-upgrade` shows the rest.",
                plan.kept_back.join(" ")
            )));
        }
        Ok(if plan.is_empty() { Outcome::NothingToDo } else { Outcome::Done })
    }

    pub(super) fn confirm(&self, events: &mut Events<'_>) -> Result<Outcome> {
        let (plan, product) = (self.plan()?, self.product);
        // Whoever agreed to an upgrade agreed to what is left of it, and to nothing else.
        let agreed_to = self.past.as_ref().map(|past| &past.latest_plan().changes).filter(|_| self.agreed);
        let is_agreed = agreed_to.is_some_and(|changes| plan.changes.iter().all(|change| is_part_of(change, changes)));
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
        forget_typed_ahead();
        let yes = ask(&question, &mut stdin().lock(), &mut self.context.options.screen());
        events.tell(Event::Answered(yes));
        Ok(if yes { Outcome::Done } else { Outcome::Declined })
    }
}

/// True if a change leads to where one of these led. It may have come from somewhere else: a part of it is done.
fn is_part_of(change: &Change, changes: &[Change]) -> bool {
    let goal = |kind: &ChangeKind| match kind {
        ChangeKind::Upgrade { to, .. } | ChangeKind::Install { to } => Some(to.clone()),
        ChangeKind::Remove { .. } => None,
    };
    changes.iter().any(|agreed| agreed.package == change.package && goal(&agreed.kind) == goal(&change.kind))
}

/// What a thread found out.
fn answer<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("a thread ended before its time")))
}
