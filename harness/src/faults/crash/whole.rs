//! Everything that a machine is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::machines::machine::Machine;

/// Paths that are not compared, each with all below it: what belongs to a machine's life and not to what is installed on it.
const EXCEPTIONS: [&str; 29] = [
    // The kernel's, the engine's, and what is in memory.
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/var/tmp",
    "/.dockerenv",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/mtab",
    // Logs, systemd's journal among them, and caches.
    "/var/log",
    "/var/cache",
    "/var/lib/apt/lists",
    "/var/backups",
    // Identities, seeds, and what systemd remembers of them.
    "/etc/machine-id",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/catalog",
    "/var/lib/systemd/timers",
    // When /usr was changed last (systemd-update-done(8)), which each machine that has it on a filesystem of its own says otherwise.
    "/etc/.updated",
    "/var/.updated",
    // What dpkg had before its last change.
    "/var/lib/dpkg/status-old",
    "/var/lib/dpkg/diversions-old",
    "/var/lib/dpkg/statoverride-old",
    // The upgrader's own journal, history and store.
    "/var/lib/xivo-upgrade",
    // The files of a database, of which the content is compared.
    "/var/lib/postgresql",
    // Each world's own: its repository, and whether anybody takes up a run at boot.
    "/etc/apt/sources.list.d/xivo.sources",
    "/var/lib/crash",
];

/// The key with which a world's repository signs: another each time.
const KEY: &str = "/usr/share/keyrings/xivo.pgp";

/// The upgrader's store on a filesystem that is not that of its state.
const STORE: &str = ".xivo-upgrade-rollback";

/// Everything that a machine is, but for [`EXCEPTIONS`]: each path with type, mode, owner, content and extended attributes, times left aside;
/// what dpkg complains of; and the services, with the versions that they say they run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Whole(BTreeMap<String, String>);

impl Whole {
    /// Looks at a machine.
    pub(super) fn of(machine: &Machine) -> Result<Self> {
        Ok(Self::read(&machine.sh(&script())?))
    }

    fn read(printed: &str) -> Self {
        let mut things: BTreeMap<String, String> = BTreeMap::new();
        let mut of = String::new();
        for line in printed.lines() {
            if let Some(path) = line.strip_prefix("# file: ") {
                path.clone_into(&mut of);
            } else if let Some((kind, rest)) = line.split_once('\t') {
                let (name, what) = rest.split_once('\t').unwrap_or((rest, ""));
                let name = if kind == "path" { name.to_owned() } else { format!("{kind} {name}") };
                things.entry(name).or_default().push_str(what);
            } else if let Some((content, path)) = line.split_once("  /") {
                let _ = write!(things.entry(format!("/{path}")).or_default(), " {content}");
            } else if !line.is_empty() {
                let _ = write!(things.entry(of.clone()).or_default(), " {line}");
            }
        }
        Self(things)
    }

    /// In what this machine differs from another: paths, each with what it is here and was there.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        let told = |what: Option<&String>| what.map_or_else(|| "nothing".to_owned(), |what| what.trim().to_owned());
        let differing = names.into_iter().filter(|name| self.0.get(*name) != other.0.get(*name));
        differing
            .map(|name| format!("{name}: {} instead of {}", told(self.0.get(name)), told(other.0.get(name))))
            .collect()
    }
}

/// Prints all that [`Whole::read`] reads.
pub(super) fn script() -> String {
    let paths = EXCEPTIONS.iter().map(|path| format!("-path {path}"));
    let exceptions: Vec<String> = paths.chain([format!("-name {STORE}")]).collect();
    format!(
        r#"export LC_ALL=C
everything() {{ find / \( {exceptions} \) -prune -o "$@"; }}
everything -printf 'path\t%p\t%y %m %U:%G %l\n'
everything -type f ! -path {KEY} -print0 | xargs -0 sha256sum
everything -print0 | xargs -0 getfattr --no-dereference --dump --match=- --encoding=hex --absolute-names
for running in /run/*.running; do
    [ -e "$running" ] || continue
    name=$(basename $running .running)
    read -r process version <$running
    if [ "$process" = "$(systemctl show -P MainPID $name)" ]; then printf 'service\t%s\t%s %s\n' $name $(systemctl show -P ActiveState $name) $version; fi
done
if [ -d /var/lib/postgresql ]; then
    until pg_isready --quiet; do sleep 0.05; done
    runuser -u postgres -- pg_dump --exclude-table=strike --exclude-table-data=xivo_upgrade.* asterisk | grep -v restrict | sort | sha256sum |
        sed 's/ .*//; s/^/database\tasterisk\t/'
fi
systemctl list-units --failed --plain --no-legend | sed 's/^xivo-upgrade-resume.service.*//; s/^\([^ ]\)/failed\t\1/'
dpkg --audit | sed -n 's/^ \([^ ]*\).*/half-done\t\1/p'
flock --nonblock /run/xivo-upgrade.lock true || printf 'lock\theld\n'
"#,
        exceptions = exceptions.join(" -o "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_a_path_is_told_in_one_piece_and_differences_by_path() {
        let old = Whole::read("path\t/a\tf 644 0:0 \npath\t/b\tl 777 0:0 a\nservice\tx\tactive 1\n0a  /a\n");
        let new =
            Whole::read("path\t/a\tf 644 0:0 \nservice\tx\tactive 2\n0a  /a\n# file: /a\nsecurity.capability=0x01\n\n");
        assert_eq!(
            new.differences(&old),
            [
                "/a: f 644 0:0  0a security.capability=0x01 instead of f 644 0:0  0a",
                "/b: nothing instead of l 777 0:0 a",
                "service x: active 2 instead of active 1",
            ]
        );
        assert_eq!(old.differences(&old), [""; 0]);
    }
}
