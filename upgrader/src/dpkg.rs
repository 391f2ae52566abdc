use std::io::ErrorKind;

use anyhow::{Context as _, Result};

use crate::command::Program;
use crate::paths::Paths;
use crate::product::ConffilePolicy;
use crate::unattended::{dpkg_options, unattended};

/// The installed version of a package; `None` if it is not installed, or removed with its conffiles left.
pub fn installed_version(package: &str) -> Result<Option<String>> {
    let query =
        Program::new("dpkg-query").args(["--show", "--showformat=${Package}\t${Version}\t${db:Status-Status}\n"]);
    Ok(find_installed(&query.output()?, package))
}

/// True if the admin has put a package on hold.
pub fn is_held(package: &str) -> Result<bool> {
    let query = Program::new("dpkg-query").args(["--show", "--showformat=${db:Status-Want}\n", package]);
    Ok(query.output()?.lines().any(|want| want == "hold"))
}

/// True if dpkg was killed in the middle of its work: it keeps what it had not yet put into its database in files whose names
/// are numbers (as apt's `debSystem::CheckUpdates` looks for them).
pub fn was_interrupted(paths: &Paths) -> Result<bool> {
    let directory = paths.dpkg_updates();
    let entries = match directory.read_dir() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        entries => entries.with_context(|| directory.display().to_string())?,
    };
    for entry in entries {
        if entry?.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Configures every package that is unpacked, without a question from anybody.
pub fn configure_pending(conffiles: ConffilePolicy, line: &mut dyn FnMut(&str)) -> Result<()> {
    let dpkg = Program::new("dpkg").args(dpkg_options(conffiles)).args(["--configure", "--pending"]);
    unattended(dpkg, conffiles).lines(line)
}

/// Reads `package TAB version TAB status` lines.
fn find_installed(listing: &str, package: &str) -> Option<String> {
    listing.lines().find_map(|line| {
        let mut fields = line.split('\t');
        let (name, version, status) = (fields.next()?, fields.next()?, fields.next()?);
        // An unpacked or half-configured package has its new version on disk: that is the version of the machine.
        let present = !matches!(status, "not-installed" | "config-files");
        (name == package && present && !version.is_empty()).then(|| version.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_interrupted_dpkg_is_known_by_the_numbers_it_leaves() {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::of_program(Path::new("acme-upgrade")).expect("a good name").below(root.path());
        assert!(!was_interrupted(&paths).expect("absent"));
        std::fs::create_dir_all(paths.dpkg_updates()).expect("created");
        std::fs::write(paths.dpkg_updates().join("tmp.i"), "").expect("written");
        assert!(!was_interrupted(&paths).expect("readable"));
        std::fs::write(paths.dpkg_updates().join("0003"), "").expect("written");
        assert!(was_interrupted(&paths).expect("readable"));
    }

    #[test]
    fn only_what_is_there_has_an_installed_version() {
        let listing = "xivo\t1:2023.1-rc1\tinstalled\nold\t1.0\tconfig-files\nvirtual\t\tnot-installed\nhalf\t12.04\thalf-configured\n";
        assert_eq!(find_installed(listing, "xivo").as_deref(), Some("1:2023.1-rc1"));
        assert_eq!(find_installed(listing, "half").as_deref(), Some("12.04"));
        for package in ["old", "virtual", "xiv", "absent"] {
            assert_eq!(find_installed(listing, package), None, "{package}");
        }
    }

    proptest! {
        #[test]
        fn no_listing_is_too_strange(listing in "(?s).{0,200}", package in ".{0,10}") {
            find_installed(&listing, &package);
            find_installed(&format!("{package}\t{listing}"), &package);
        }

        #[test]
        fn each_package_of_a_listing_is_found_by_its_whole_name(
            packages in prop::collection::btree_map("[a-z][a-z0-9+.-]{1,5}", ("[0-9][0-9a-z.+~:-]{0,8}", any::<bool>()), 1..8),
        ) {
            let lines: Vec<String> = packages
                .iter()
                .map(|(name, (version, there))| {
                    format!("{name}\t{version}\t{}\n", if *there { "half-configured" } else { "config-files" })
                })
                .collect();
            let listing = lines.concat();
            for (name, (version, there)) in &packages {
                prop_assert_eq!(find_installed(&listing, name), there.then(|| version.clone()));
                let absent = format!("{name}0~");
                prop_assert_eq!(find_installed(&listing, &absent), None);
            }
        }
    }
}
