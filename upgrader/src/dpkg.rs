use anyhow::Result;

use crate::command::Program;

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
    use super::*;

    #[test]
    fn only_what_is_there_has_an_installed_version() {
        let listing = "xivo\t1:2023.1-rc1\tinstalled\nold\t1.0\tconfig-files\nvirtual\t\tnot-installed\nhalf\t12.04\thalf-configured\n";
        assert_eq!(find_installed(listing, "xivo").as_deref(), Some("1:2023.1-rc1"));
        assert_eq!(find_installed(listing, "half").as_deref(), Some("12.04"));
        for package in ["old", "virtual", "xiv", "absent"] {
            assert_eq!(find_installed(listing, package), None, "{package}");
        }
    }
}
