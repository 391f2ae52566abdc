//! What belongs to a machine and not to a release.

use std::collections::BTreeSet;

use anyhow::Result;

use super::check::Check;
use super::portrait::UNITS;
use crate::machines::machine::Machine;

/// Prints what a machine has that no release brings, a line each: `conffile SUM PATH` for one that is not as its package has it, and
/// `data PATH`. Its units are printed beside it.
///
/// What programs of Debian's keep about themselves below /var/lib is not the machine's own, nor is what the upgrader keeps.
const SCRIPT: &str = r"export LC_ALL=C
dpkg-query --show --showformat='${Conffiles}\n' | sed -n 's/^ \(.*\) \([0-9a-f]\{32\}\)$/\2  \1/p' |
    md5sum --check --quiet 2>/dev/null | sed -n 's/: FAILED$//p' | xargs --no-run-if-empty sha256sum | sed 's/^\([^ ]*\)  /conffile \1 /'
find /var/lib /var/spool /srv /home /opt -xdev -type f -printf 'data %p\n' |
    grep -Ev '^data /var/lib/(apt|dpkg|systemd|ucf|pam|private|misc|[^/]*-upgrade)/'
";

/// Where Debian's PostgreSQL has its clusters.
const SERVER: &str = "/var/lib/postgresql/";

/// How closely the data of a machine is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Each file has to be there afterwards, but of a database server each directory that had some.
    Files,
    /// Each directory that had files has to have some: databases make and remove files of their own.
    Directories,
}

/// What belongs to a machine and its admin, and not to the release: it outlives every upgrade.
#[derive(Debug)]
pub struct Own(BTreeSet<String>);

impl Own {
    /// Looks at a machine.
    pub fn of(machine: &Machine) -> Result<Self> {
        Ok(Self::parse(&machine.sh(&format!("{SCRIPT}{UNITS}"))?))
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().map(str::to_owned).collect())
    }

    /// Whether all of it is still there.
    pub fn checks(&self, machine: &Machine, data: Data) -> Result<Vec<Check>> {
        let [now, there] = machine.ask([&format!("{SCRIPT}{UNITS}"), "find /etc -type f -exec sha256sum {} +"])?;
        let now = Self::parse(&now);
        let sums: BTreeSet<&str> = self.edited().map(|(sum, _)| sum).collect();
        // What a link leads to may be anywhere.
        let linked = now.edited().map(|(sum, _)| sum);
        let there: BTreeSet<&str> = there.lines().filter_map(|line| line.split(' ').next()).chain(linked).collect();
        let lost = self.edited().filter(|(sum, _)| !there.contains(sum));
        let foreign = now.edited().filter(|(sum, _)| !sums.contains(sum));
        Ok(vec![
            ("no edit of the admin's is lost", lost.map(|(_, path)| path.to_owned()).collect()),
            ("nobody but the admin has edited a conffile", foreign.map(|(_, path)| path.to_owned()).collect()),
            ("no data of the machine's is gone", self.lacking(&now, data)),
            ("what was switched off stays off", self.switched_on(&now)),
        ])
    }

    /// Conffiles that are not as their packages have them: what they have instead, as a sum, and where.
    fn edited(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|line| line.strip_prefix("conffile ")?.split_once(' '))
    }

    fn lacking(&self, now: &Self, data: Data) -> Vec<String> {
        let (before, after) = (self.data(data), now.data(data));
        before.difference(&after).map(|path| (*path).to_owned()).collect()
    }

    /// Files with data, or the directories that have any.
    fn data(&self, data: Data) -> BTreeSet<&str> {
        let files = self.0.iter().filter_map(|line| line.strip_prefix("data "));
        match data {
            // A database server makes and removes files of its own.
            Data::Files => files
                .map(|path| path.rsplit_once('/').filter(|_| path.starts_with(SERVER)).map_or(path, |(above, _)| above))
                .collect(),
            Data::Directories => files.filter_map(|path| Some(path.rsplit_once('/')?.0)).collect(),
        }
    }

    /// A unit that is gone is not switched on, nor is one that comes switched on.
    fn switched_on(&self, now: &Self) -> Vec<String> {
        let unit =
            |line: &str, state: &str| Some(line.strip_prefix("unit ")?.strip_suffix(state)?.trim_end().to_owned());
        let off: BTreeSet<String> = [" disabled", " masked"]
            .iter()
            .flat_map(|state| self.0.iter().filter_map(|line| unit(line, state)))
            .collect();
        now.0.iter().filter_map(|line| unit(line, " enabled")).filter(|unit| off.contains(unit)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_was_off_and_is_enabled_was_switched_on() {
        let before = Own::parse(
            "unit a.service disabled\nunit b.service masked\nunit c.service disabled\nunit d.service enabled\n",
        );
        let after = Own::parse(
            "unit a.service enabled\nunit b.service enabled\nunit d.service enabled\nunit e.service enabled\n",
        );
        assert_eq!(before.switched_on(&after), ["a.service", "b.service"]);
        assert_eq!(before.switched_on(&before), [""; 0]);
    }

    #[test]
    fn a_database_may_change_its_files_but_not_lose_its_directory() {
        let before = Own::parse("data /var/lib/db/wal/1\ndata /var/lib/db/wal/2\ndata /srv/calls/1\n");
        let after = Own::parse("data /var/lib/db/wal/2\ndata /var/lib/db/wal/3\n");
        assert_eq!(before.lacking(&after, Data::Files), ["/srv/calls/1", "/var/lib/db/wal/1"]);
        assert_eq!(before.lacking(&after, Data::Directories), ["/srv/calls"]);
        let before = Own::parse("data /var/lib/postgresql/15/main/base/1\ndata /var/lib/postgresql/15/main/pg_wal/1\n");
        let after = Own::parse("data /var/lib/postgresql/15/main/base/2\n");
        assert_eq!(before.lacking(&after, Data::Files), ["/var/lib/postgresql/15/main/pg_wal"]);
    }
}
