//! What happens, told to journald: a reader of events.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::model::event::{Event, Subscriber};
use crate::model::hook::HookOutcome;

/// Where journald listens (systemd's "Native Journal Protocol").
const SOCKET: &str = "/run/systemd/journal/socket";

/// Priorities of syslog(3).
const ERROR: u8 = 3;
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFO: u8 = 6;

/// Tells journald what happens, with fields that can be searched for: `journalctl UPGRADE_SERVICE=asterisk`.
#[derive(Debug)]
pub struct Journald {
    socket: UnixDatagram,
    identifier: String,
}

impl Journald {
    /// A connection to journald, under this name. None where it does not listen.
    #[must_use]
    pub fn connect(identifier: String) -> Option<Self> {
        Self::connect_to(Path::new(SOCKET), identifier).ok()
    }

    fn connect_to(path: &Path, identifier: String) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A journald that is stuck must not hold an upgrade up.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, identifier })
    }
}

impl Subscriber for Journald {
    fn receive(&mut self, event: &Event) {
        let Some(Entry { priority, message, fields }) = entry(event) else { return };
        let mut datagram = Vec::new();
        field(&mut datagram, "MESSAGE", &message);
        field(&mut datagram, "PRIORITY", &priority.to_string());
        field(&mut datagram, "SYSLOG_IDENTIFIER", &self.identifier);
        for (name, value) in fields {
            field(&mut datagram, name, &value);
        }
        let _ = self.socket.send(&datagram);
    }
}

/// What the journal gets of an event.
struct Entry {
    priority: u8,
    message: String,
    fields: Vec<(&'static str, String)>,
}

/// What happens between the beginning and the end of a run. Output of programs is for the log alone.
fn entry(event: &Event) -> Option<Entry> {
    let (priority, message, fields) = match event {
        Event::Planned { product, plan, .. } => (
            INFO,
            format!("{product} {} -> {}: {} packages change", plan.installed, plan.candidate, plan.changes.len()),
            vec![("UPGRADE_FROM", plan.installed.clone()), ("UPGRADE_TO", plan.candidate.clone())],
        ),
        Event::Found(finding) => {
            (if finding.fatal { ERROR } else { WARNING }, format!("{finding}. {}", finding.remedy), vec![])
        }
        Event::Interrupted(run) => (WARNING, format!("{} -> {} was cut short", run.from, run.to), vec![]),
        Event::RollingBack { product, to } => (WARNING, format!("going back to {product} {to}"), vec![]),
        Event::Detached { .. } => (NOTICE, "the upgrade begins".to_owned(), vec![]),
        Event::Began(step) => (INFO, format!("step {step}"), vec![("UPGRADE_STEP", step.to_string())]),
        Event::HookEnded { phase, hook, ended, milliseconds } => {
            let (priority, how) = match ended {
                HookOutcome::Done => (INFO, "done".to_owned()),
                HookOutcome::NotApplicable => (INFO, "not applicable".to_owned()),
                HookOutcome::Failed(how) => (ERROR, format!("failed {how}")),
            };
            let message = format!("{phase} hook {hook}: {how} after {milliseconds} ms");
            (priority, message, vec![("UPGRADE_HOOK", hook.clone()), ("UPGRADE_PHASE", phase.to_string())])
        }
        Event::Migrated(name, result) => {
            let (priority, how) = result.as_ref().map_or_else(|error| (ERROR, error.as_str()), |()| (INFO, "applied"));
            (priority, format!("migration {name}: {how}"), vec![("UPGRADE_MIGRATION", name.clone())])
        }
        Event::Conffile(entry) => {
            (NOTICE, format!("conffile: {entry}"), vec![("UPGRADE_CONFFILE", entry.path.display().to_string())])
        }
        Event::ServiceUp { service, outage } => (
            INFO,
            format!("{service} is up after {outage} ms"),
            vec![("UPGRADE_SERVICE", service.clone()), ("UPGRADE_OUTAGE_MS", outage.to_string())],
        ),
        Event::ServiceDown { service, reason, .. } => {
            (ERROR, format!("{service} is not up: {reason}"), vec![("UPGRADE_SERVICE", service.clone())])
        }
        Event::RebootRecommended(reasons) => (WARNING, format!("reboot recommended: {}", reasons.join("; ")), vec![]),
        Event::Attention(attention) => (WARNING, attention.to_string(), vec![]),
        Event::Failed(text) => (ERROR, text.clone(), vec![]),
        Event::Finished { exit, message, .. } => (
            NOTICE,
            format!("finished with exit code {}: {message}", exit.code()),
            vec![("UPGRADE_EXIT_CODE", exit.code().to_string())],
        ),
        _ => return None,
    };
    Some(Entry { priority, message, fields })
}

/// One field: `NAME=value` on a line, or with its length in front where the value has more than one.
fn field(datagram: &mut Vec<u8>, name: &str, value: &str) {
    datagram.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journald_gets_fields_to_search_for_and_lines_with_their_length() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let server = UnixDatagram::bind(&path).expect("bound");
        let mut journald = Journald::connect_to(&path, "acme-upgrade".to_owned()).expect("it listens");
        let mut received = |event: &Event| {
            journald.receive(event);
            let mut buffer = [0; 1024];
            let count = server.recv(&mut buffer).expect("something came");
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        };
        assert_eq!(
            received(&Event::ServiceUp { service: "asterisk".to_owned(), outage: 41 }),
            "MESSAGE=asterisk is up after 41 ms\nPRIORITY=6\nSYSLOG_IDENTIFIER=acme-upgrade\nUPGRADE_SERVICE=asterisk\n\
             UPGRADE_OUTAGE_MS=41\n"
        );
        assert_eq!(
            received(&Event::Failed("a\nb".to_owned())),
            "MESSAGE\n\u{3}\0\0\0\0\0\0\0a\nb\nPRIORITY=3\nSYSLOG_IDENTIFIER=acme-upgrade\n"
        );
    }
}
