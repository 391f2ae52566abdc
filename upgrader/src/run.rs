use std::io::{stdin, stdout};

use anyhow::{Context as _, Result};

use crate::cli::Context;
use crate::event::{Event, Events};
use crate::exit::{Exit, Failure, Stopped};
use crate::hooks::{self, Phase};
use crate::lock::Lock;
use crate::plan::Plan;
use crate::question::ask;
use crate::step::{Mode, Next, Outcome, Step};
use crate::systemd::{self, Turn};
use crate::{apt, dpkg};

/// `real-NAME-upgrade`: one step after the other, until there is none or one fails.
pub fn run(context: &Context<'_>, events: &mut Events<'_>) -> Result<Exit, Stopped> {
    let _lock = Lock::take(&context.paths.lock())?;
    let mut run = Run { context, events, plan: None, attention: Vec::new(), down: Vec::new() };
    let mut step = Step::Preflight;
    loop {
        run.events.tell(Event::Began(step));
        let outcome = run.perform(step).map_err(|error| Stopped { error, exit: step.exit_on_failure() })?;
        run.events.tell(Event::Ended(step));
        match step.next(outcome, context.options.mode()) {
            Next::Step(next) => step = next,
            Next::End(exit) => return Ok(run.finish(step, exit)),
        }
    }
}

/// A run under way, and what its steps have found.
struct Run<'a, 'e> {
    context: &'a Context<'a>,
    events: &'a mut Events<'e>,
    plan: Option<Plan>,
    /// What is done but wants attention, in the person's words.
    attention: Vec<String>,
    /// The services that did not come up.
    down: Vec<String>,
}

impl Run<'_, '_> {
    fn perform(&mut self, step: Step) -> Result<Outcome> {
        match step {
            // The other program has done these.
            Step::Refresh | Step::SelfUpdate => Ok(Outcome::Done),
            Step::Preflight => self.preflight(),
            Step::Plan => self.make_plan(),
            Step::Confirm => Ok(self.confirm()),
            Step::Download => self.download(),
            Step::PreUpgradeHooks => self.hooks(Phase::PreUpgrade),
            Step::Packages => self.packages(),
            Step::PostUpgradeHooks => self.hooks(Phase::PostUpgrade),
            Step::Restart => Ok(self.restart()),
            Step::Verify => self.verify(),
        }
    }

    /// What can be known to go wrong is known before anything is touched.
    fn preflight(&mut self) -> Result<Outcome> {
        for phase in [Phase::PreUpgrade, Phase::PostUpgrade] {
            hooks::find(&self.context.paths.hooks(phase))?;
        }
        Ok(Outcome::Done)
    }

    fn make_plan(&mut self) -> Result<Outcome> {
        let product = self.context.product;
        let package = &product.version_package;
        let installed = dpkg::installed_version(package)?.ok_or_else(|| {
            Failure::new(format!("{} is not installed on this machine: there is no package {package}", product.name))
                .remedy(format!("Install it first: `apt-get install {package}`."))
        })?;
        let candidate = apt::candidate(package)?.unwrap_or_else(|| installed.clone());
        let simulation = apt::simulate().context(Failure::new("apt finds no way to upgrade this machine").remedy(
            "`apt-get -s dist-upgrade` shows the same; often `dpkg --configure -a` or `apt-get -f install` helps.",
        ))?;
        let plan = Plan {
            installed,
            candidate,
            changes: simulation.changes,
            kept_back: simulation.kept_back,
            download: apt::download_size()?,
            restart: product.services.order().to_vec(),
        };
        plan.check(product)?;
        self.events.tell(Event::Planned { product: product.name.clone(), plan: plan.clone() });
        let outcome = if plan.is_empty() { Outcome::NothingToDo } else { Outcome::Done };
        self.plan = Some(plan);
        Ok(outcome)
    }

    fn confirm(&mut self) -> Outcome {
        if self.context.options.yes {
            return Outcome::Done;
        }
        let name = &self.context.product.name;
        let question = match &self.plan {
            Some(plan) if plan.installed != plan.candidate => {
                format!("Would you like to upgrade {name} {} to {} now?", plan.installed, plan.candidate)
            }
            _ => format!("Would you like to upgrade the packages of this {name} now?"),
        };
        if ask(&question, &mut stdin().lock(), &mut stdout().lock()) { Outcome::Done } else { Outcome::Declined }
    }

    fn download(&mut self) -> Result<Outcome> {
        apt::download(&mut self.events.output_of("apt-get")).context(
            Failure::new("the packages could not be downloaded")
                .remedy("Check the network and the space in /var/cache/apt, then start again."),
        )?;
        Ok(Outcome::Done)
    }

    /// Runs the hooks of a phase. The first that fails before the upgrade stops the run; after it, the others still run.
    fn hooks(&mut self, phase: Phase) -> Result<Outcome> {
        let Some(plan) = &self.plan else { return Ok(Outcome::Done) };
        let found = hooks::find(&self.context.paths.hooks(phase))?;
        for (path, reason) in found.skipped {
            self.events.tell(Event::HookSkipped(phase, hooks::name(&path), reason.to_owned()));
        }
        let mut failed = Vec::new();
        for path in found.hooks {
            let hook = hooks::name(&path);
            self.events.tell(Event::HookBegan(phase, hook.clone()));
            let result = hooks::run(&path, phase, plan, &mut self.events.output_of(&hook));
            let told = result.as_ref().map(|&()| ()).map_err(|error| format!("{error:#}"));
            self.events.tell(Event::HookEnded(phase, hook.clone(), told));
            match (phase, result) {
                (_, Ok(())) => {}
                (Phase::PreUpgrade, Err(error)) => {
                    return Err(Failure::new(format!("no package was changed: the pre-upgrade hook {hook} {error:#}"))
                        .remedy("Do what the hook asks for, then start again.")
                        .into());
                }
                (Phase::PostUpgrade, Err(_)) => failed.push(path),
            }
        }
        if failed.is_empty() {
            return Ok(Outcome::Done);
        }
        self.attention.extend(failed.iter().map(|path| format!("The post-upgrade hook {} failed.", path.display())));
        Ok(Outcome::Attention)
    }

    fn packages(&mut self) -> Result<Outcome> {
        let conffiles = self.context.product.packages.conffiles;
        apt::dist_upgrade(conffiles, &mut self.events.output_of("apt-get")).with_context(|| {
            Failure::new("the packages were not upgraded to the end").remedy(format!(
                "See {}; then `dpkg --configure -a`, `apt-get -f install`, and start again.",
                self.context.paths.log().display()
            ))
        })?;
        Ok(Outcome::Done)
    }

    /// Restarts every service; what did not come up is for [`Step::Verify`] to judge, once all have had their turn.
    fn restart(&mut self) -> Outcome {
        let (events, down) = (&mut *self.events, &mut self.down);
        systemd::restart_all(&self.context.product.services, &mut |service, turn| match turn {
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
    fn verify(&mut self) -> Result<Outcome> {
        let mut gone = Vec::new();
        for service in self.context.product.services.order() {
            let state = systemd::active_state(service)?;
            if state != "active" && !self.down.contains(service) {
                gone.push((service.clone(), state));
            }
        }
        self.down.extend(gone.iter().map(|(service, _)| service.clone()));
        if !gone.is_empty() {
            self.events.tell(Event::ServicesDown(gone));
        }
        if self.down.is_empty() {
            return Ok(Outcome::Done);
        }
        Err(Failure::new(format!("upgraded, but not running: {}", self.down.join(", ")))
            .remedy(format!(
                "`systemctl status {0}` shows why; mend it, then `systemctl restart {0}`.",
                self.down.join(" ")
            ))
            .into())
    }

    /// The last words, and the exit code that goes with them.
    fn finish(&mut self, last: Step, exit: Exit) -> Exit {
        let name = &self.context.product.name;
        let (installed, candidate) =
            self.plan.as_ref().map_or(("", ""), |plan| (plan.installed.as_str(), plan.candidate.as_str()));
        let services = self.context.product.services.order().len();
        let command = self.context.paths.package();
        let (exit, message) = match (last, exit, self.context.options.mode()) {
            (_, Exit::Declined, _) => (exit, "Nothing was changed.".to_owned()),
            (Step::Plan, Exit::Done, Mode::DryRun) => (exit, "Nothing was changed: this was a dry run.".to_owned()),
            (Step::Plan, _, _) => (exit, format!("{name} {installed} is up to date: nothing to do.")),
            (Step::Download, _, _) => {
                (exit, format!("Everything is downloaded, nothing was changed. `{command}` upgrades."))
            }
            _ if self.attention.is_empty() => {
                (exit, format!("{name} {candidate} is installed; all {services} services are running."))
            }
            _ => {
                let log = self.context.paths.log();
                let attention = self.attention.join("\n");
                (
                    Exit::Attention,
                    format!(
                        "{name} {candidate} is installed; all {services} services are running.\n{attention}\nWhat to do: see {}; hooks can be run again by hand.",
                        log.display()
                    ),
                )
            }
        };
        self.events.tell(Event::Finished { exit, message });
        exit
    }
}
