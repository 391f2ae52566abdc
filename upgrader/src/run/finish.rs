use anyhow::Result;
use jiff::Timestamp;

use super::Run;
use crate::dpkg;
use crate::event::{Event, Events};
use crate::exit::{Exit, Failure};
use crate::step::Step;

/// The last words.
impl Run<'_> {
    /// Says the last words, with all that wants attention in them, and gives the exit code.
    pub(super) fn finish(&self, last: Step, exit: Exit, events: &mut Events<'_>) -> Result<Exit> {
        let attention = events.report().attention.clone();
        let (exit, message) = self.last_words(last, exit, &attention)?;
        events.tell(Event::Finished { exit, time: Timestamp::now(), message });
        Ok(exit)
    }

    fn last_words(&self, last: Step, exit: Exit, attention: &[String]) -> Result<(Exit, String)> {
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
                let services = self.restarted.summary(&self.product.services);
                format!("{name} {} is installed; {services}.", self.installed_version()?)
            }
        };
        for line in attention {
            message.push('\n');
            message.push_str(line);
        }
        let exit = if attention.is_empty() { exit } else { Exit::Attention };
        Ok((exit, message))
    }

    /// The version that dpkg says is installed now.
    pub(super) fn installed_version(&self) -> Result<String> {
        let (product, package) = (&self.product.name, &self.product.version_package);
        dpkg::installed_version(package)?.ok_or_else(|| {
            Failure::new(format!("{product} is not installed on this machine: there is no package {package}"))
                .remedy(format!("Install it first: `apt-get install {package}`."))
                .into()
        })
    }
}
