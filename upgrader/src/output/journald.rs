//! A subscriber that writes events to systemd's journal.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::model::event::Event;
use crate::model::hook::HookOutcome;
use crate::output::renderer::Renderer;
use crate::output::sentences;

/// Where journald listens (systemd's "Native Journal Protocol").
const SOCKET: &str = "/run/systemd/journal/socket";

/// Priorities of syslog(3).
const ERROR: u8 = 3;
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFO: u8 = 6;

/// Has fields to search for: `journalctl UPGRADE_SERVICE=asterisk`.
#[derive(Debug)]
pub(crate) struct Journald {
    socket: UnixDatagram,
    identifier: String,
}

impl Journald {
    /// None if journald does not listen.
    pub(crate) fn connect(identifier: String) -> Option<Self> {
        Self::connect_to(Path::new(SOCKET), identifier).ok()
    }

    pub(super) fn connect_to(path: &Path, identifier: String) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A stuck journald must not block an upgrade.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, identifier })
    }
}

impl Renderer for Journald {
    fn receive_clean(&mut self, event: &Event) {
        let Some((priority, fields)) = entry(event) else { return };
        let mut datagram = Vec::new();
        field(&mut datagram, "MESSAGE", &message(event));
        field(&mut datagram, "PRIORITY", &priority.to_string());
        field(&mut datagram, "SYSLOG_IDENTIFIER", &self.identifier);
        for (name, value) in fields {
            field(&mut datagram, name, &value);
        }
        let _ = self.socket.send(&datagram);
    }
}

/// The priority of an event and its fields. None for an event that is in the log only.
fn entry(event: &Event) -> Option<(u8, Vec<(&'static str, String)>)> {
    let entry = match event {
        Event::Planned { plan, .. } => {
            (INFO, vec![("UPGRADE_FROM", plan.installed.clone()), ("UPGRADE_TO", plan.candidate.clone())])
        }
        Event::Found(finding) => (if finding.fatal { ERROR } else { WARNING }, vec![]),
        Event::Interrupted(_) | Event::RollingBack { .. } | Event::RebootRecommended(_) | Event::Attention(_) => {
            (WARNING, vec![])
        }
        Event::Detached { .. } => (NOTICE, vec![]),
        Event::Began(step) => (INFO, vec![("UPGRADE_STEP", step.to_string())]),
        Event::HookEnded { phase, hook, ended, .. } => {
            let priority = if matches!(ended, HookOutcome::Failed(_)) { ERROR } else { INFO };
            (priority, vec![("UPGRADE_HOOK", hook.clone()), ("UPGRADE_PHASE", phase.to_string())])
        }
        Event::Migrated(name, result) => {
            (if result.is_ok() { INFO } else { ERROR }, vec![("UPGRADE_MIGRATION", name.clone())])
        }
        Event::Conffile(entry) => (NOTICE, vec![("UPGRADE_CONFFILE", entry.path.display().to_string())]),
        Event::ServiceUp { service, outage } => {
            (INFO, vec![("UPGRADE_SERVICE", service.clone()), ("UPGRADE_OUTAGE_MS", outage.to_string())])
        }
        Event::ServiceDown { service, .. } => (ERROR, vec![("UPGRADE_SERVICE", service.clone())]),
        Event::Failed(_) => (ERROR, vec![]),
        Event::Finished { exit, .. } => (NOTICE, vec![("UPGRADE_EXIT_CODE", exit.code().to_string())]),
        _ => return None,
    };
    Some(entry)
}

/// The first line of an event's sentence; messages to the admin are complete.
fn message(event: &Event) -> String {
    let text = sentences::of(event).unwrap_or_default();
    match event {
        Event::Attention(_) | Event::Failed(_) | Event::Finished { .. } => text,
        _ => text.lines().next().unwrap_or_default().to_owned(),
    }
}

/// One field: `NAME=value`, or with a length before the value if that has several lines.
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
    use crate::model::event::Subscriber as _;

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
