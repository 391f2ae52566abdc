use std::io::{stdin, stdout};

use anyhow::{Context as _, Result, bail};

use crate::apt::Simulation;
use crate::cli::Context;
use crate::event::{Event, Events};
use crate::exit::{Exit, Explain as _, Failure, Stopped};
use crate::hooks::{self, Phase};
use crate::lock::Lock;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::product::Product;
use crate::question::{ask, forget_typed_ahead};
use crate::step::{Mode, Next, Outcome, Step};
use crate::systemd::{self, Turn};
use crate::{apt, database, dpkg, signals};

/// `real-NAME-upgrade`: everything that comes after the upgrader is up to date.
pub fn run(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let _lock = Lock::take(&context.paths.lock())?;
    let product = Product::read(&context.paths.product())?;
    let mut run = Run { context, product: &product, plan: None, attention: Vec::new(), down: Vec::new() };
    let (last, exit) =
        drive(Step::Preflight, context.options.mode(), events, |step, events| run.perform(step, events))?;
    let (exit, message) = run.finish(last, exit)?;
    events.tell(Event::Finished { exit, message });
    Ok(exit)
}

/// Performs one step after the other, beginning with `first`, until there is none or one fails. Gives the last step and the
/// exit code that [`Step::next`] has for it.
pub fn drive(
    first: Step,
    mode: Mode,
    events: &mut Events<'_>,
    mut perform: impl FnMut(Step, &mut Events<'_>) -> Result<Outcome>,
) -> Result<(Step, Exit), Stopped> {
    let mut step = first;
    loop {
        events.tell(Event::Began(step));
        let outcome = perform(step, events).map_err(|error| Stopped { error, exit: step.exit_on_failure() })?;
        events.tell(Event::Ended(step));
        match step.next(outcome, mode) {
            Next::Step(next) => step = next,
            Next::End(exit) => return Ok((step, exit)),
        }
    }
}

/// A run under way, and what its steps have found.
struct Run<'a> {
    context: &'a Context<'a>,
    product: &'a Product,
    plan: Option<Plan>,
    /// What is done but wants attention, in the person's words.
    attention: Vec<String>,
    /// The services that did not come up.
    down: Vec<String>,
}

impl Run<'_> {
    fn perform(&mut self, step: Step, events: &mut Events<'_>) -> Result<Outcome> {
        match step {
            Step::Refresh | Step::SelfUpdate => bail!("{step} is a step of the other program"),
            Step::Preflight => self.preflight(),
            Step::Plan => self.make_plan(events),
            Step::Confirm => self.confirm(events),
            Step::Repair => self.repair(events),
            Step::Download => download(events),
            Step::PreUpgradeHooks => {
                let outcome = self.hooks(Phase::PreUpgrade, events)?;
                // Before the screen says that the packages are next: then it has to be true.
                signals::shield()?;
                Ok(outcome)
            }
            Step::Packages => self.packages(events),
            Step::Migrate => self.migrate(events),
            Step::PostUpgradeHooks => self.hooks(Phase::PostUpgrade, events),
            Step::Restart => Ok(self.restart(events)),
            Step::Verify => self.verify(events),
        }
    }

    /// What can be known to go wrong is known before anything is touched.
    fn preflight(&mut self) -> Result<Outcome> {
        Policy::remove_left_over(self.context.paths)?;
        for phase in [Phase::PreUpgrade, Phase::PostUpgrade] {
            hooks::find(&self.context.paths.hooks(phase))?;
        }
        Ok(Outcome::Done)
    }

    fn make_plan(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        let package = &self.product.version_package;
        let installed = self.installed_version()?;
        let candidate = apt::candidate(package)?.unwrap_or_else(|| installed.clone());
        let Simulation { changes, unfinished, kept_back } = apt::simulate().explain(|| {
            Failure::new("apt finds no way to upgrade this machine").remedy(
                "`apt-get -s dist-upgrade` shows the same; often `dpkg --configure -a` or `apt-get -f install` helps.",
            )
        })?;
        let restart = self.product.services.order().to_vec();
        let (download, migrations) = (apt::download_size()?, Vec::new());
        let mut plan = Plan { installed, candidate, changes, unfinished, kept_back, download, migrations, restart };
        plan.check(self.product, &self.context.paths.package())?;
        if let Some(database) = &self.product.database {
            plan.migrations = database::survey(database, self.context.paths, plan.changes_packages())?.pending;
        }
        events.tell(Event::Planned { product: self.product.name.clone(), plan: plan.clone() });
        if !plan.kept_back.is_empty() {
            self.attention.push(format!(
                "Held or kept back, so not as released: {}. What to do: `apt-mark unhold` what is held (`apt-mark showhold`); \
                 `apt-get -s dist-upgrade` shows the rest.",
                plan.kept_back.join(" ")
            ));
        }
        let outcome = if plan.is_empty() { Outcome::NothingToDo } else { Outcome::Done };
        self.plan = Some(plan);
        Ok(outcome)
    }

    fn confirm(&self, events: &mut Events<'_>) -> Result<Outcome> {
        if self.context.options.yes {
            return Ok(Outcome::Done);
        }
        let (plan, product) = (self.plan()?, self.product);
        let question = if plan.changes_package(&product.version_package) {
            format!("Would you like to upgrade {} {} to {} now?", product.name, plan.installed, plan.candidate)
        } else if !plan.changes_packages() {
            format!("Would you like to migrate the database of this {} {} now?", product.name, plan.installed)
        } else {
            format!("Would you like to upgrade the packages of this {} {} now?", product.name, plan.installed)
        };
        forget_typed_ahead();
        let yes = ask(&question, &mut stdin().lock(), &mut stdout().lock());
        events.tell(Event::Answered(yes));
        Ok(if yes { Outcome::Done } else { Outcome::Declined })
    }

    fn repair(&self, events: &mut Events<'_>) -> Result<Outcome> {
        if dpkg::was_interrupted(self.context.paths)? {
            signals::shield()?;
            events.tell(Event::Repairing);
            let _policy = self.hold_services_back()?;
            let conffiles = self.product.packages.conffiles;
            dpkg::configure_pending(conffiles, &mut events.output_of("dpkg")).explain(|| self.half_done())?;
        }
        Ok(Outcome::Done)
    }

    fn hold_services_back(&self) -> Result<Policy> {
        Policy::hold_back(self.context.paths, self.product.services.order())
            .explain(|| Failure::new("no package was changed: the services cannot be held").exit(Exit::Unchanged))
    }

    fn half_done(&self) -> Failure {
        let (log, command) = (self.context.paths.log(), self.context.paths.package());
        Failure::new("the packages were not upgraded to the end").remedy(format!(
            "See {}, mend what it names, then start {command} again: it finishes the packages, runs the post-upgrade hooks and \
             restarts the services.",
            log.display()
        ))
    }

    /// Runs the hooks of a phase. The first that fails before the upgrade stops the run; after it, the others still run.
    fn hooks(&mut self, phase: Phase, events: &mut Events<'_>) -> Result<Outcome> {
        let found = match (hooks::find(&self.context.paths.hooks(phase)), phase) {
            (Ok(found), _) => found,
            (Err(error), Phase::PreUpgrade) => return Err(error),
            // The services must have their turn all the same.
            (Err(error), Phase::PostUpgrade) => {
                self.attention.push(format!("No post-upgrade hook was run: {error:#}."));
                return Ok(Outcome::Attention);
            }
        };
        for (path, reason) in found.skipped {
            events.tell(Event::HookSkipped(phase, hooks::name(&path), reason.to_owned()));
        }
        let mut outcome = Outcome::Done;
        for path in found.hooks {
            let hook = hooks::name(&path);
            events.tell(Event::HookBegan(phase, hook.clone()));
            let result = hooks::run(&path, phase, self.plan()?, &mut events.output_of(&hook))
                .map_err(|error| format!("{error:#}"));
            events.tell(Event::HookEnded(phase, hook.clone(), result.clone()));
            match (phase, result) {
                (_, Ok(())) => {}
                (Phase::PreUpgrade, Err(how)) => {
                    return Err(Failure::new(format!(
                        "no package was changed: the pre-upgrade hook {hook} failed {how}"
                    ))
                    .remedy("Do what the hook asks for, then start again.")
                    .into());
                }
                (Phase::PostUpgrade, Err(_)) => {
                    self.attention.push(format!(
                        "The post-upgrade hook {hook} failed. What to do: see {}, then run {} again.",
                        self.context.paths.log().display(),
                        path.display()
                    ));
                    outcome = Outcome::Attention;
                }
            }
        }
        Ok(outcome)
    }

    fn packages(&self, events: &mut Events<'_>) -> Result<Outcome> {
        let changed = "what there is to upgrade changed since it was shown";
        let now = apt::simulate().explain(|| Failure::new(changed).exit(Exit::Unchanged))?;
        if now.changes != self.plan()?.changes {
            return Err(Failure::new(format!("no package was changed: {changed}"))
                .remedy("Start again to see the new plan.")
                .exit(Exit::Unchanged)
                .into());
        }
        let _policy = self.hold_services_back()?;
        if let Some(database) = &self.product.database {
            database::packages_will_change(database, self.context.paths)?;
        }
        let conffiles = self.product.packages.conffiles;
        apt::dist_upgrade(conffiles, &mut events.output_of("apt-get")).explain(|| self.half_done())?;
        Ok(Outcome::Done)
    }

    fn migrate(&self, events: &mut Events<'_>) -> Result<Outcome> {
        if let Some(database) = &self.product.database {
            database::migrate(database, self.context.paths, database::KEEP_DAYS, events)?;
        }
        Ok(Outcome::Done)
    }

    /// Restarts every service; what did not come up is for [`Step::Verify`] to judge, once all have had their turn.
    fn restart(&mut self, events: &mut Events<'_>) -> Outcome {
        let down = &mut self.down;
        systemd::restart_all(&self.product.services, &mut |service, turn| match turn {
            Turn::Began => events.tell(Event::ServiceRestarting(service.to_owned())),
            Turn::Ended(Ok(())) => events.tell(Event::ServiceRestarted(service.to_owned(), Ok(()))),
            Turn::Ended(Err(error)) => {
                down.push(service.to_owned());
                events.tell(Event::ServiceRestarted(service.to_owned(), Err(format!("{error:#}"))));
            }
        });
        if self.down.is_empty() { Outcome::Done } else { Outcome::Attention }
    }

    /// A service that did not come up, or went down while others came up, needs a human.
    fn verify(&mut self, events: &mut Events<'_>) -> Result<Outcome> {
        let mut gone = Vec::new();
        let services = self.product.services.order();
        for (service, state) in services.iter().zip(systemd::active_states(services)?) {
            if state != "active" && !self.down.contains(service) {
                gone.push((service.clone(), state));
            }
        }
        self.down.extend(gone.iter().map(|(service, _)| service.clone()));
        if !gone.is_empty() {
            events.tell(Event::ServicesDown(gone));
        }
        if self.down.is_empty() {
            return Ok(Outcome::Done);
        }
        let down = self.down.join(" ");
        Err(Failure::new(format!("upgraded, but not up: {down}"))
            .remedy(format!("`systemctl status {down}` shows why; mend it, then `systemctl restart {down}`."))
            .into())
    }

    /// The exit code with all that wants attention in it, and the last words.
    fn finish(&self, last: Step, exit: Exit) -> Result<(Exit, String)> {
        let name = &self.product.name;
        let command = self.context.paths.package();
        if exit == Exit::Declined {
            return Ok((exit, format!("{name} was not changed.")));
        }
        let up_to_date = self.plan()?.is_empty();
        let mut message = match (last, self.context.options.mode()) {
            (Step::Plan, _) if up_to_date => {
                format!("Nothing to upgrade: {name} {} is installed.", self.installed_version()?)
            }
            (Step::Plan, _) => "This was a dry run: nothing was changed.".to_owned(),
            (Step::Download, _) => {
                format!("Everything is downloaded; {name} was not changed. `{command}` upgrades it.")
            }
            _ => {
                let services = self.product.services.order().len();
                format!("{name} {} is installed; all {services} services are running.", self.installed_version()?)
            }
        };
        for line in &self.attention {
            message.push('\n');
            message.push_str(line);
        }
        let exit = if self.attention.is_empty() { exit } else { Exit::Attention };
        Ok((exit, message))
    }

    /// The version that dpkg says is installed now.
    fn installed_version(&self) -> Result<String> {
        let (product, package) = (&self.product.name, &self.product.version_package);
        dpkg::installed_version(package)?.ok_or_else(|| {
            Failure::new(format!("{product} is not installed on this machine: there is no package {package}"))
                .remedy(format!("Install it first: `apt-get install {package}`."))
                .into()
        })
    }

    fn plan(&self) -> Result<&Plan> {
        self.plan.as_ref().context("there is no plan yet")
    }
}

fn download(events: &mut Events<'_>) -> Result<Outcome> {
    apt::download(&mut events.output_of("apt-get")).explain(|| {
        Failure::new("the packages could not be downloaded")
            .remedy("Check the network and the space in /var/cache/apt, then start again.")
    })?;
    Ok(Outcome::Done)
}
