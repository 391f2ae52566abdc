//! Writes the set of packages that passed the gate, for the upgrader.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use upgrader::checks::validated::{Member, Set};

use crate::data;
use crate::machines::machine::Machine;

/// The packages that are installed: name, architecture and version on a line each.
const INSTALLED: &str = "dpkg-query --show --showformat='${db:Status-Status} ${Package} ${Architecture} ${Version}\\n' \
                         | sed -n 's/^installed //p'";

/// What the machine's sources say of what is installed. Of what they do not have any more they say nothing.
const OFFERED: &str = "apt-cache show --no-all-versions \
                       $(dpkg-query --show --showformat='${Package}=${Version}\\n') 2>/dev/null || true";

/// The names of the packages that a machine has.
pub(super) fn names(machine: &Machine) -> Result<BTreeSet<String>> {
    let lines = machine.sh(INSTALLED)?;
    Ok(lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

/// The packages that a machine has, without the upgrader's own, which carries the set: those of `base`, which the machine had before, and
/// the others.
pub(super) fn members(
    machine: &Machine,
    base: &BTreeSet<String>,
    upgrader: &str,
) -> Result<(Vec<Member>, Vec<Member>)> {
    let [installed, offered] = machine.ask([INSTALLED, OFFERED])?;
    let sums = sums(&offered);
    let member = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let (name, architecture, version) = (words.next()?, words.next()?, words.next()?);
        let sha256 = sums.get(&(name.clone(), architecture.clone(), version.clone())).cloned();
        Some(Member { name, architecture, version, sha256 })
    };
    let mut members: Vec<Member> =
        installed.lines().filter_map(member).filter(|member| member.name != upgrader).collect();
    members.sort();
    Ok(members.into_iter().partition(|member| base.contains(&member.name)))
}

/// The SHA-256 sums in paragraphs of package indices (deb822(5)), by name, architecture and version.
fn sums(indices: &str) -> BTreeMap<(String, String, String), String> {
    let of = |paragraph: &str| {
        let field = |name: &str| {
            paragraph
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .map(|value| value.trim().to_owned())
        };
        Some(((field("Package")?, field("Architecture")?, field("Version")?), field("SHA256")?))
    };
    indices.split("\n\n").filter_map(of).collect()
}

/// Writes a set as `DEBIAN.toml` into a directory, and says so.
pub(super) fn write(set: &Set, directory: &Path, out: &mut dyn Write) -> Result<()> {
    let file = directory.join(format!("{}.toml", set.debian));
    data::write(&file, set.to_string())?;
    let (own, base) = (set.packages.len(), set.base.len());
    writeln!(
        out,
        "{}: {own} packages of {} {}, and {base} that a machine has before",
        file.display(),
        set.product,
        set.version
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_belong_to_a_version() {
        let text = "Package: a\nArchitecture: all\nVersion: 1\nDescription: x\n  SHA256: no\nSHA256: abc\n\nPackage: b\nVersion: 2\n";
        let key = ["a", "all", "1"].map(str::to_owned);
        assert_eq!(sums(text), BTreeMap::from([(key.into(), "abc".to_owned())]));
    }
}
