//! Finds the units that the upgrade added.

use std::path::Path;

use anyhow::Result;

use super::Store;

/// Where units are (systemd.unit(5)).
const UNITS: [&str; 3] = ["/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"];

/// Those that run something, or let something run.
const KINDS: [&str; 4] = ["service", "socket", "timer", "path"];

impl Store {
    /// The units that the upgrade added. They have to be stopped before their files are removed.
    pub fn added_units(&self) -> Result<Vec<String>> {
        let added = self.added()?.paths;
        Ok(added.iter().filter_map(|path| unit(path)).collect())
    }
}

/// The name of the unit that this file is; none for a template, of which nothing runs under that name.
fn unit(path: &Path) -> Option<String> {
    let directory = path.parent()?;
    let kind = path.extension()?.to_str()?;
    let is_unit = UNITS.iter().any(|units| directory == Path::new(units)) && KINDS.contains(&kind);
    let name = path.file_name()?.to_str()?;
    (is_unit && !name.contains("@.")).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_something_is_a_unit_and_what_belongs_to_one_is_not() {
        let unit = |path: &str| unit(Path::new(path));
        assert_eq!(unit("/usr/lib/systemd/system/a.service").as_deref(), Some("a.service"));
        assert_eq!(unit("/etc/systemd/system/b.timer").as_deref(), Some("b.timer"));
        for other in [
            "/usr/lib/systemd/system/a@.service",
            "/usr/lib/systemd/system/a.service.d",
            "/etc/systemd/system/multi-user.target.wants/a.service",
            "/usr/bin/a.service",
        ] {
            assert_eq!(unit(other), None, "{other}");
        }
    }
}
