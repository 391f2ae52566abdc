//! Runs dpkg: installed packages, their conffiles, configuring packages.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::model::package::Package;
use crate::model::policy::ConffilePolicy;
use crate::paths::Paths;
use crate::system::command::Program;
use crate::system::entries;
use crate::system::unattended::{dpkg_options, unattended};

/// Every package that dpkg knows of.
pub(crate) fn packages() -> Result<Vec<Package>> {
    Ok(parse_packages(&Program::new("dpkg-query").args(["--show", PACKAGES]).output()?))
}

/// What [`parse_packages`] reads.
const PACKAGES: &str = "--showformat=${Package}\t${Architecture}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\t\
                        ${db:Status-Eflag}\t${Installed-Size}\n";

/// A conffile as dpkg has it in its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conffile {
    /// The package that ships it, by the name in the query.
    pub(crate) package: String,
    /// Where it is.
    pub(crate) path: String,
    /// The MD5 sum, in hex, of the file in the package.
    pub(crate) shipped: String,
    /// True if the installed version of the package does not ship it any more.
    pub(crate) obsolete: bool,
}

/// The conffiles of these packages. Packages that are not there have none.
pub(crate) fn conffiles<'a>(packages: impl IntoIterator<Item = &'a str>) -> Result<Vec<Conffile>> {
    let query = Program::new("dpkg-query").args(["--show", "--showformat=>${binary:Package}\n${Conffiles}\n", "--"]);
    // dpkg-query fails if one of them is not installed, and prints the others all the same.
    Ok(parse_conffiles(&query.stdout_for(packages)?))
}

/// The installed version of a package; `None` if it is not installed, or removed with its conffiles left.
pub(crate) fn installed_version(package: &str) -> Result<Option<String>> {
    Ok(packages()?.into_iter().find(|found| found.name == package && found.is_present()).map(|found| found.version))
}

/// A modified or missing file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Modified {
    /// Where it is.
    pub(crate) path: String,
    /// True if it is a conffile.
    pub(crate) is_conffile: bool,
}

/// How long it may take to read all files of all packages.
const VERIFY_LIMIT: Duration = Duration::from_secs(60 * 60);

/// The files of these packages that were modified or removed since they were installed. Reads all of them.
pub(crate) fn modified(packages: impl Iterator<Item = String>) -> Result<Vec<Modified>> {
    // dpkg fails if there are any.
    let found = Program::new("dpkg").arg("--verify").time_limit(VERIFY_LIMIT).stdout_for(packages)?;
    Ok(found.lines().filter_map(parse_verified).collect())
}

/// Reads a line of `dpkg --verify`: what was found, `c` for a conffile, and the path.
fn parse_verified(line: &str) -> Option<Modified> {
    let (what, path) = line.split_at_checked(line.find('/')?)?;
    Some(Modified { path: path.to_owned(), is_conffile: what.trim_end().ends_with(" c") })
}

/// True if the admin has put a package on hold.
pub(crate) fn is_held(package: &str) -> Result<bool> {
    Ok(packages()?.iter().any(|found| found.name == package && found.held))
}

/// True if dpkg was interrupted. It keeps entries that are not yet in its database in files with numeric names (apt's
/// `debSystem::CheckUpdates` looks for them, too).
pub(crate) fn was_interrupted(paths: &Paths) -> Result<bool> {
    let directory = paths.dpkg_updates();
    let updates = entries(&directory).with_context(|| directory.display().to_string())?;
    let has_number =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    Ok(updates.iter().any(has_number))
}

/// The package whose files a file of `/var/lib/dpkg/info` lists: `libc6` of `libc6:amd64.list`. `None` if it is no such list.
pub(crate) fn package_of_list(file_name: &OsStr) -> Option<&str> {
    let name = file_name.to_str()?.strip_suffix(".list")?;
    Some(name.split_once(':').map_or(name, |(name, _architecture)| name))
}

/// The paths in a list of `/var/lib/dpkg/info`, one a line; the root directory, which is in each, is left out.
pub(crate) fn listed(list: &[u8]) -> impl Iterator<Item = &Path> {
    list.split(|byte| *byte == b'\n')
        .map(|line| Path::new(OsStr::from_bytes(line)))
        .filter(|path| path.is_absolute() && path.file_name().is_some())
}

/// A diversion (dpkg-divert(1)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diversion {
    /// The path as packages have it.
    pub(crate) from: PathBuf,
    /// The diverted path of the file.
    pub(crate) to: PathBuf,
    /// The package that made the diversion, whose own file is not diverted; `:` for the admin.
    pub(crate) by: String,
}

/// Reads `/var/lib/dpkg/diversions`: three lines each.
pub(crate) fn parse_diversions(text: &[u8]) -> Vec<Diversion> {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let path = |line: &[u8]| PathBuf::from(OsStr::from_bytes(line));
    lines
        .chunks_exact(3)
        .map(|lines| Diversion {
            from: path(lines[0]),
            to: path(lines[1]),
            by: String::from_utf8_lossy(lines[2]).into_owned(),
        })
        .collect()
}

/// The argument of [`configure`] for all unpacked packages.
pub(crate) const PENDING: &str = "--pending";

/// Configures a package that is unpacked. dpkg does not ask anything. First dpkg completes its database if it was killed before.
pub(crate) fn configure(package: &str, conffiles: ConffilePolicy, line: &mut dyn FnMut(&str)) -> Result<()> {
    let dpkg = Program::new("dpkg").args(dpkg_options(conffiles)).args(["--configure", package]);
    unattended(dpkg, conffiles).lines(line)
}

/// Reads lines of seven fields with tabs in between; lines of another form are passed over.
fn parse_packages(listing: &str) -> Vec<Package> {
    listing
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [name, architecture, version, want, status, error, size] = fields[..] else { return None };
            Some(Package {
                name: name.to_owned(),
                architecture: architecture.to_owned(),
                version: version.to_owned(),
                held: want == "hold",
                status: status.to_owned(),
                needs_reinstallation: error == "reinstreq",
                installed_size: size.parse().unwrap_or_default(),
            })
        })
        .collect()
}

/// Reads `>package` lines, each followed by ` path md5sum` lines with flags at their end. A path may have blanks in it.
fn parse_conffiles(listing: &str) -> Vec<Conffile> {
    let mut package = "";
    let mut conffiles = Vec::new();
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix('>') {
            package = name;
            continue;
        }
        let line = line.trim();
        let rest = line.strip_suffix(" obsolete").unwrap_or(line);
        let rest = rest.strip_suffix(" remove-on-upgrade").unwrap_or(rest);
        let obsolete = rest != line;
        let Some((path, shipped)) = rest.rsplit_once(' ') else { continue };
        if path.starts_with('/') {
            let (package, path, shipped) = (package.to_owned(), path.to_owned(), shipped.to_owned());
            conffiles.push(Conffile { package, path, shipped, obsolete });
        }
    }
    conffiles
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_interrupted_dpkg_is_known_by_the_numbers_it_leaves() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        assert!(!was_interrupted(&paths).expect("absent"));
        let (_root, paths) = Paths::of_test_machine(&[("var/lib/dpkg/updates/tmp.i", "")]);
        assert!(!was_interrupted(&paths).expect("readable"));
        std::fs::write(paths.dpkg_updates().join("0003"), "").expect("written");
        assert!(was_interrupted(&paths).expect("readable"));
    }

    #[test]
    fn only_what_is_there_is_present() {
        let listing = "xivo\tall\t1:2023.1-rc1\thold\tinstalled\tok\t12\n\
                       old\tall\t1.0\tdeinstall\tconfig-files\tok\t\n\
                       virtual\tall\t\tunknown\tnot-installed\tok\t\n\
                       half\tamd64\t12.04\tinstall\thalf-installed\treinstreq\t7\n\
                       nonsense\n";
        let packages = parse_packages(listing);
        let names = |wanted: fn(&Package) -> bool| -> Vec<&str> {
            packages.iter().filter(|package| wanted(package)).map(|package| package.name.as_str()).collect()
        };
        assert_eq!(packages.len(), 4);
        assert_eq!(names(Package::is_present), ["xivo", "half"]);
        assert_eq!(names(|package| package.held), ["xivo"]);
        assert_eq!(names(|package| package.needs_reinstallation), ["half"]);
        assert_eq!(packages[0].installed_size, 12);
    }

    #[test]
    fn conffiles_are_read_with_blanks_in_their_names_and_flags_behind() {
        let listing = ">xivo\n /etc/xivo/xivo.conf aaaa\n /etc/a b.conf bbbb obsolete\n\n>asterisk:amd64\n\n>x\n \n junk\n \
                       /etc/gone newconffile remove-on-upgrade\n";
        let conffiles: Vec<String> = parse_conffiles(listing)
            .iter()
            .map(|file| format!("{} {} {} {}", file.package, file.path, file.shipped, file.obsolete))
            .collect();
        assert_eq!(
            conffiles,
            ["xivo /etc/xivo/xivo.conf aaaa false", "xivo /etc/a b.conf bbbb true", "x /etc/gone newconffile true"]
        );
    }

    #[test]
    fn a_list_of_files_is_read_whatever_is_in_their_names() {
        assert_eq!(package_of_list(OsStr::new("libc6:amd64.list")), Some("libc6"));
        assert_eq!(package_of_list(OsStr::new("bash.list")), Some("bash"));
        assert_eq!(package_of_list(OsStr::new("bash.md5sums")), None);
        let paths: Vec<_> = listed(b"/.\n/usr\n/usr/a b\xff\n\n").collect();
        assert_eq!(paths, [Path::new("/usr"), Path::new(OsStr::from_bytes(b"/usr/a b\xff"))]);
    }

    #[test]
    fn a_diversion_is_three_lines() {
        let diversions = parse_diversions(b"/bin/sh\n/bin/sh.distrib\ndash\n/usr/sbin/x\n/usr/sbin/x.real\n:\n");
        let read: Vec<_> =
            diversions.iter().map(|it| format!("{} {} {}", it.from.display(), it.to.display(), it.by)).collect();
        assert_eq!(read, ["/bin/sh /bin/sh.distrib dash", "/usr/sbin/x /usr/sbin/x.real :"]);
    }

    proptest! {
        #[test]
        fn no_listing_is_too_strange(text in "(?s).{0,200}", mark in "(>| /etc/|\t){0,7}") {
            for text in [&text, &format!("{mark}{text}"), &format!("{text}\n{mark}{text}")] {
                parse_packages(text);
                parse_conffiles(text);
            }
        }

        #[test]
        fn every_package_and_every_conffile_of_a_listing_is_read(
            packages in prop::collection::vec(("[a-z][a-z0-9+.-]{1,5}", "[0-9][0-9a-z.+~:-]{0,8}", any::<bool>(), any::<u32>()), 0..8),
        ) {
            let line = |(name, version, there, size): &(String, String, bool, u32)| {
                let status = if *there { "half-configured" } else { "config-files" };
                format!("{name}\tall\t{version}\tinstall\t{status}\tok\t{size}\n")
            };
            let read = parse_packages(&packages.iter().map(line).collect::<String>());
            prop_assert_eq!(read.len(), packages.len());
            for (read, (name, version, there, size)) in read.iter().zip(&packages) {
                prop_assert_eq!((&read.name, &read.version, read.is_present()), (name, version, *there));
                prop_assert_eq!(read.installed_size, u64::from(*size));
            }
            let conffile = |(name, version, ..): &(String, String, bool, u32)| format!(">{name}\n /etc/{version} x y0\n");
            let read = parse_conffiles(&packages.iter().map(conffile).collect::<String>());
            prop_assert_eq!(read.len(), packages.len());
            for (read, (name, version, ..)) in read.iter().zip(&packages) {
                prop_assert_eq!((&read.package, &read.path), (name, &format!("/etc/{version} x")));
            }
        }
    }
}
