use std::io::stdin;

use anyhow::Result;

use super::Run;
use crate::apt::{self, Simulation};
use crate::event::{Event, Events};
use crate::exit::{Explain as _, Failure};
use crate::hooks::{self, Phase};
use crate::plan::Plan;
use crate::policy::Policy;
use crate::question::{ask, forget_typed_ahead};
use crate::step::Outcome;

/// The steps that only look: as long as they run, nothing has changed, and the person is there.
impl Run<'_> {
    /// What can be known to go wrong is known before anything is touched.
    pub(super) fn preflight(&mut self) -> Result<Outcome> {
        Policy::remove_left_over(self.context.paths)?;
        for phase in [Phase::PreUpgrade, Phase::PostUpgrade] {
            hooks::find(&self.context.paths.hooks(phase))?;
        }
        Ok(Outcome::Done)
    }

    pub(super) fn make_plan(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        let package = &self.product.version_package;
        let installed = self.installed_version()?;
        let candidate = apt::candidate(package)?.unwrap_or_else(|| installed.clone());
        let Simulation { changes, unfinished, kept_back } = apt::simulate().explain(|| {
            Failure::new("apt finds no way to upgrade this machine").remedy(
                "`apt-get -s dist-upgrade` shows the same; often `dpkg --configure -a` or `apt-get -f install` helps.",
            )
        })?;
        let restart = self.product.services.order().to_vec();
        let plan =
            Plan { installed, candidate, changes, unfinished, kept_back, download: apt::download_size()?, restart };
        plan.check(self.product, &self.context.paths.package())?;
        events.tell(Event::Planned { product: self.product.name.clone(), plan: plan.clone() });
        if !plan.kept_back.is_empty() {
            events.tell(Event::Attention(format!(
                "Held or kept back, so not as released: {}. What to do: `apt-mark unhold` what is held (`apt-mark showhold`); \
                 `apt-get -s dist-upgrade` shows the rest.",
                plan.kept_back.join(" ")
            )));
        }
        let outcome = if plan.is_empty() { Outcome::NothingToDo } else { Outcome::Done };
        self.plan = Some(plan);
        Ok(outcome)
    }

    pub(super) fn confirm(&self, events: &mut Events<'_>) -> Result<Outcome> {
        if self.context.options.yes {
            return Ok(Outcome::Done);
        }
        let (plan, product) = (self.plan()?, self.product);
        let question = if plan.changes_package(&product.version_package) {
            format!("Would you like to upgrade {} {} to {} now?", product.name, plan.installed, plan.candidate)
        } else {
            format!("Would you like to upgrade the packages of this {} {} now?", product.name, plan.installed)
        };
        forget_typed_ahead();
        let yes = ask(&question, &mut stdin().lock(), &mut self.context.options.screen());
        events.tell(Event::Answered(yes));
        Ok(if yes { Outcome::Done } else { Outcome::Declined })
    }
}
