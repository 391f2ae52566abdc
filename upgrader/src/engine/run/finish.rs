//! The end of a run: its closing message and its exit code.

use anyhow::Result;
use jiff::Timestamp;

use super::Run;
use crate::checks::pair;
use crate::checks::validated::{Drift, Set};
use crate::exit::{Exit, Failure};
use crate::model::event::Event;
use crate::model::events::Events;
use crate::model::node::Role;
use crate::model::report::{Report, seconds};
use crate::model::step::Step;
use crate::printable;
use crate::system::dpkg;

impl Run<'_> {
    /// Emits the closing message with everything that needs attention, and returns the exit code.
    pub(super) fn finish(&self, last: Step, exit: Exit, events: &mut Events<'_>) -> Result<Exit> {
        let next = if last == Step::Verify { self.check_pair_afterwards(events)? } else { None };
        if last == Step::Verify {
            self.report_drift(events);
        }
        let time = Timestamp::now();
        let (exit, mut message) = self.summary(last, exit, events.report(), time)?;
        if let Some(next) = next {
            message.push('\n');
            message.push_str(&next);
        }
        events.emit(Event::Finished { exit, time, message });
        Ok(exit)
    }

    /// Ends a run whose question was not answered with yes.
    pub(super) fn decline(message: String, events: &mut Events<'_>) -> Exit {
        events.emit(Event::Finished { exit: Exit::Declined, time: Timestamp::now(), message });
        Exit::Declined
    }

    fn summary(&self, last: Step, exit: Exit, report: &Report, now: Timestamp) -> Result<(Exit, String)> {
        let name = &self.product.name;
        let command = self.context.paths.package();
        if exit == Exit::Declined {
            return Ok((exit, format!("{name} was not changed.")));
        }
        let plan = self.plan()?;
        let mut message = match (last, self.context.options.mode()) {
            (Step::Plan, _) if plan.is_empty() => {
                format!("Nothing to upgrade: {name} {} is installed.", self.installed_version()?)
            }
            (Step::Plan, _) => "This was a dry run: nothing was changed.".to_owned(),
            (Step::Download, _) => {
                format!("Everything is downloaded; {name} was not changed. `{command}` upgrades it.")
            }
            _ => {
                let services = self.restarted.summary(&self.product.services);
                let installed = self.installed_version()?;
                let versions = if installed == plan.comes_from() {
                    format!("{name} {installed} is installed")
                } else {
                    format!("{name} is upgraded from {} to {installed}", plan.comes_from())
                };
                format!("{versions}; {services}.\n{}", what_it_took(report, now))
            }
        };
        let conffiles: Vec<String> = report
            .conffiles
            .iter()
            .filter(|entry| entry.wants_a_look())
            .map(|entry| format!("\n  {}", printable::line(&entry.to_string())))
            .collect();
        if !conffiles.is_empty() {
            message.push_str("\nConfiguration files to look at:");
            message.push_str(&conffiles.concat());
        }
        message.push_str(&attention(report));
        let exit = if report.attention.is_empty() { exit } else { Exit::Attention };
        Ok((exit, message))
    }

    /// Reports differences from the validated set that the plan did not show. An error here does not fail the upgrade.
    fn report_drift(&self, events: &mut Events<'_>) {
        let command = self.context.paths.package();
        let said = match self.unseen_drift() {
            Ok(unseen) if unseen.is_empty() => return,
            Ok(unseen) => format!("Not as the {} team validated it: {}", self.product.name, unseen.join("; ")),
            Err(error) => format!("Whether the machine is as it was validated is not known: {error:#}"),
        };
        events.attention(said, format!("`{command} status --drift` shows all that differs."));
    }

    fn unseen_drift(&self) -> Result<Vec<String>> {
        let Some(shown) = self.plan()?.validated.as_ref().filter(|shown| shown.debian.is_some()) else {
            return Ok(Vec::new());
        };
        let (paths, sets) = (self.context.paths, Set::all(self.context.paths)?);
        let drift = Drift::of_packages(&sets, &self.installed_version()?, &paths.package(), &dpkg::packages()?);
        let unseen = drift.differing.iter().filter(|difference| !shown.differing.contains(difference));
        Ok(unseen.map(ToString::to_string).collect())
    }

    /// Checks the other node again, and returns what to do next.
    fn check_pair_afterwards(&self, events: &mut Events<'_>) -> Result<Option<String>> {
        let before = self.plan()?.node.as_ref().filter(|node| node.role != Role::Alone);
        let Some((pair, before)) = self.product.pair.as_ref().zip(before) else { return Ok(None) };
        let next = pair::check_afterwards(pair, before, &self.installed_version()?, &self.context.paths.package());
        Ok(next.unwrap_or_else(|attention| {
            events.emit(Event::Attention(attention));
            None
        }))
    }

    pub(super) fn installed_version(&self) -> Result<String> {
        let (product, package) = (&self.product.name, &self.product.version_package);
        dpkg::installed_version(package)?.ok_or_else(|| {
            Failure::new(format!("{product} is not installed on this machine: there is no package {package}"))
                .remedy(format!("Install it first: `apt-get install {package}`."))
                .into()
        })
    }
}

pub(super) fn attention(report: &Report) -> String {
    report.attention.iter().flat_map(|attention| ["\n".to_owned(), attention.to_string()]).collect()
}

/// `It took 12 s; services were out of service for 0.41 s in all, none longer than asterisk (0.09 s).`
fn what_it_took(report: &Report, now: Timestamp) -> String {
    let took = report.started.map_or(0, |started| now.duration_since(started).as_secs());
    let longest = report.services.iter().max_by_key(|service| service.outage_ms);
    let outage = longest.and_then(|longest| Some((longest, longest.outage_ms?))).map(|(longest, milliseconds)| {
        let (sum, most) = (seconds(report.outage_ms()), seconds(milliseconds));
        format!("; services were out of service for {sum} in all, none longer than {} ({most})", longest.name)
    });
    format!("It took {took} s{}.", outage.unwrap_or_default())
}
