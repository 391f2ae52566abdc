//! What two machines with the same release have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::machines::database;
use crate::machines::image::{Debian, Image};
use crate::machines::machine::Machine;
use crate::machines::product_machine;
use crate::machines::world::World;
use crate::packages::binaries;
use crate::packages::deb;
use crate::packages::package::Package;
use crate::packages::release::Release;

/// Prints `unit NAME enabled`, `masked` or `disabled` of every unit file. systemd's own list of them takes it a third of a second, and
/// comes from the same links.
pub(super) const UNITS: &str = r#"
{
    find /etc/systemd/system -maxdepth 1 -lname /dev/null -printf '3 %f masked\n'
    find /etc/systemd/system -type l ! -lname /dev/null -printf '2 %l enabled\n' | sed 's| .*/| |'
    find /usr/lib/systemd/system /etc/systemd/system -maxdepth 1 -regex '.*\.\(service\|socket\|timer\|path\|target\)' -printf '1 %f disabled\n'
} | LC_ALL=C sort -r | awk '!seen[$2]++ { print "unit", $2, $3 }'
"#;

/// Prints what two machines with the same release have in common, a line each: what it is, its name, and what there is to say of it.
///
/// What is each machine's own is left out, and so is what packages that were removed left behind for the day they come back. find(1) looks
/// up the name of an owner for each file anew, which takes it longer than all else: awk knows them all.
const SCRIPT: &str = r#"export LC_ALL=C
dpkg-query --show --showformat='package ${Package} ${Version} ${db:Status-Abbrev}\n' | grep -v ' rc *$'
apt-mark showmanual | sed 's/^/manual /'
apt-mark showhold | sed 's/^/hold /'
dpkg-query --show --showformat='${db:Status-Abbrev}\t${Package}\n' | sed -n 's/^rc *\t//p' | while read -r package; do
    dpkg-query --show --showformat='${Conffiles}\n' "$package" | sed -n 's/^ \([^ ]*\) .*/remains \1/p'
    ls /var/lib/dpkg/info/"$package".* 2>/dev/null | sed 's/^/remains /'
done
ours='-path /etc/machine-id -o -path /etc/hostname -o -path /etc/hosts -o -path /etc/resolv.conf -o -path /etc/.pwd.lock
    -o -path /etc/apt/sources.list.d/xivo.sources -o -path /usr/share/keyrings/xivo.pgp'
find /etc \( $ours \) -o -type f -exec sha256sum {} + | sed 's/^\([^ ]*\)  \(.*\)/content \2 \1/'
find /etc /usr \( $ours \) -o -type d -printf '%U %G directory %p %m \001\n' -o -printf '%U %G file %p %y %m \001 %l\n' -path '/usr/*' -type f -printf '0 0 size %p %s\n' |
    awk 'FILENAME != "-" { split($0, entry, ":"); if (!((FILENAME, entry[3]) in name)) name[FILENAME, entry[3]] = entry[1]; next }
        function named(file, id) { return (file, id) in name ? name[file, id] : id }
        { owner = named("/etc/passwd", $1) ":" named("/etc/group", $2); sub(/^[^ ]* [^ ]* /, ""); sub(/\001/, owner); print }' /etc/passwd /etc/group -
find /var/lib/systemd/deb-systemd* -type f -printf 'switched %p\n' 2>/dev/null
dpkg-divert --list | sed 's/^/divert /'
dpkg-statoverride --list | sed 's/^\([^ ]* [^ ]* [^ ]*\) \(.*\)/override \2 \1/'
systemctl list-units --no-legend --plain --all --type=service | sed -n 's/^\([^ ]*\)  *[^ ]*  *\([^ ]*\)  *\([^ ]*\).*/service \1 \2 \3/p'
systemctl list-units --no-legend --plain --all --type=socket,timer,path | sed -n 's/^\([^ ]*\)  *[^ ]*  *\([^ ]*\).*/trigger \1 \2/p'
"#;

/// Services that are there or not as it comes: systemd's own, of moments long past, one that had nothing to do at boot, and what a fault
/// waits in.
const FLEETING: [&str; 9] = [
    "service strike.service ",
    "service xivo-upgrade-resume.service inactive",
    "service systemd-",
    "service ldconfig.service",
    "service user@",
    "service user-runtime-dir@",
    "service run-",
    "trigger systemd-",
    "trigger syslog.socket",
];

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portrait(BTreeSet<String>);

impl Portrait {
    /// Looks at a machine.
    pub fn of(machine: &Machine) -> Result<Self> {
        Ok(Self::parse(&machine.sh(&Self::script())?))
    }

    /// What prints all there is to see.
    pub(crate) fn script() -> String {
        format!("{SCRIPT}{UNITS}")
    }

    /// Of a machine on which a release was installed, with this upgrader. It is kept for all who ask, in the target directory.
    pub fn of_installed(debian: Debian, release: &Release, upgrader: &Package) -> Result<Self> {
        Self::kept(debian, release, upgrader, "", || product_machine::at_release(debian, &release.version, upgrader))
    }

    /// The same of one that has a database.
    pub fn with_database(debian: Debian, release: &Release, upgrader: &Package) -> Result<Self> {
        let install = || product_machine::with_database(debian, release, upgrader);
        Self::kept(debian, release, upgrader, database::PREPARE, install)
    }

    /// The one that is kept of such a machine, or that of one that is made now. `prepared` is how it was before the release came.
    fn kept(
        debian: Debian,
        release: &Release,
        upgrader: &Package,
        prepared: &str,
        install: impl FnOnce() -> Result<World>,
    ) -> Result<Self> {
        let packages = release.packages.iter().chain([upgrader]).map(|package| Ok(deb::build(package)?.bytes));
        let packages = packages.collect::<Result<Vec<_>>>()?;
        let machine = debian.machine();
        let ingredients = [machine.tag.as_str(), prepared, SCRIPT, UNITS].map(str::as_bytes);
        let ingredients = packages.iter().map(AsRef::as_ref).chain(ingredients);
        let name = Image::of("portrait", ingredients).tag;
        let directory = binaries::target().join("matrix/portraits");
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let file = format!("{debian}-{}-{name}", release.version);
        let path = directory.join(&file);
        if let Some(kept) = read(&path)? {
            return Ok(kept);
        }
        // Others who need the same wait here instead of looking as well.
        let lock = File::create(directory.join(format!("{debian}-{}.lock", release.version)))?;
        lock.lock()?;
        if let Some(kept) = read(&path)? {
            return Ok(kept);
        }
        let portrait = Self::of(&install()?.machine)?;
        let lines: Vec<&str> = portrait.0.iter().map(String::as_str).collect();
        let new = directory.join(format!("{file}.new"));
        fs::write(&new, lines.join("\n"))?;
        fs::rename(&new, &path)?;
        Ok(portrait)
    }

    /// Reads what the script printed, or what was kept of that.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = || text.lines().map(str::trim_end);
        let remains: BTreeSet<&str> = lines().filter_map(|line| line.strip_prefix("remains ")).collect();
        let counts = |line: &&str| {
            let path = line.split(' ').nth(1).unwrap_or_default();
            !line.starts_with("remains ")
                && !(remains.contains(path) && (line.starts_with("file ") || line.starts_with("content ")))
                && !FLEETING.iter().any(|fleeting| line.starts_with(fleeting))
        };
        // Links that were made on an older Debian name units by another path to the same directory.
        Self(lines().filter(counts).map(|line| line.replace(" /lib/", " /usr/lib/")).collect())
    }

    /// The packages that are installed, and their versions.
    #[must_use]
    pub fn packages(&self) -> BTreeMap<String, String> {
        let fields = self.0.iter().filter_map(|line| line.strip_prefix("package ")?.split_once(' '));
        let version = |rest: &str| rest.split(' ').next().unwrap_or_default().to_owned();
        fields.map(|(name, rest)| (name.to_owned(), version(rest))).collect()
    }

    /// What is different here from what it is in another: lines that begin with `-` are only there, with `+` only here.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let lacking = other.0.difference(&self.0).map(|line| format!("- {line}"));
        let additional = self.0.difference(&other.0).map(|line| format!("+ {line}"));
        lacking.chain(additional).collect()
    }
}

fn read(path: &Path) -> Result<Option<Portrait>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Portrait::parse(&text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_removed_package_left_behind_does_not_make_a_machine_another_one() {
        let plain = Portrait::parse("package a 1 ii\nfile /etc/a f 644 root:root\n");
        let other = Portrait::parse(
            "package a 2 ii\nfile /etc/a f 644 root:root\nremains /etc/b\nfile /etc/b f 644 root:root\ncontent /etc/b 00\n",
        );
        assert_eq!(other.differences(&plain), ["- package a 1 ii", "+ package a 2 ii"]);
        assert_eq!(plain.differences(&plain), [""; 0]);
    }
}
