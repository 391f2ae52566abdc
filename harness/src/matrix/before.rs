//! A machine before it is upgraded, where it is expected to be the same afterwards.

use anyhow::Result;

use super::expectation::{End, Expectation};
use super::portrait::Portrait;
use crate::machines::machine::Machine;
use crate::observe::observation::{FINGERPRINT, SystemState};

/// What can be compared afterwards, where it is expected that nothing changes.
pub(crate) struct Before(Option<(String, Portrait, SystemState)>);

impl Before {
    pub(crate) fn of(machine: &Machine, services: &[&str], expected: &Expectation) -> Result<Self> {
        if !matches!(expected.end(), End::Unchanged | End::RolledBack) {
            return Ok(Self(None));
        }
        Self::look(machine, services).map(|seen| Self(Some(seen)))
    }

    fn look(machine: &Machine, services: &[&str]) -> Result<(String, Portrait, SystemState)> {
        let [print, portrait, state] =
            machine.ask([FINGERPRINT, &Portrait::script(), &SystemState::script(services)])?;
        Ok((print, Portrait::parse(&portrait), SystemState::read(&state, services)?))
    }

    /// What is left of an upgrade that was undone. Services were restarted, and run what they ran.
    pub(crate) fn left(&self, machine: &Machine) -> Result<Vec<String>> {
        let mut left = self.changes(machine, true)?;
        let Some((.., state)) = &self.0 else { return Ok(left) };
        let services: Vec<&str> = state.services.keys().map(String::as_str).collect();
        let now = SystemState::of(machine, &services)?;
        for (service, before) in &state.services {
            if now.services.get(service).is_none_or(|now| now.version != before.version) {
                left.push(format!("{service} does not run {} again: {:?}", before.version, now.services.get(service)));
            }
        }
        Ok(left)
    }

    /// What has changed since; if the machine has booted in between, processes and times have in any case.
    pub(crate) fn changes(&self, machine: &Machine, booted: bool) -> Result<Vec<String>> {
        let Some((print, portrait, state)) = &self.0 else { return Ok(Vec::new()) };
        let services: Vec<&str> = state.services.keys().map(String::as_str).collect();
        let (print_now, portrait_now, state_now) = Self::look(machine, &services)?;
        let mut changes = portrait_now.differences(portrait);
        if booted {
            return Ok(changes);
        }
        if changes.is_empty() && print_now != *print {
            changes.push("something was written below /etc or /usr, though it looks the same".to_owned());
        }
        if state_now != *state {
            changes.push(format!("packages or services changed: {state:?} became {state_now:?}"));
        }
        Ok(changes)
    }
}
