//! The name of the product, from the name of the program, and the path of each file of the upgrader.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Whose upgrader this is, and where its files are.
///
/// A binary installed as `NAME-upgrade` (or `real-NAME-upgrade`) serves the product NAME; every path follows from it.
#[derive(Debug, Clone)]
pub struct Paths {
    name: String,
    root: PathBuf,
}

impl Paths {
    /// The paths for the program with this path, `/usr/bin/xivo-upgrade` for example.
    pub fn of_program(program: &Path) -> Result<Self> {
        let file = program.file_name().and_then(|name| name.to_str()).context("the program has no readable name")?;
        // The kernel says this of a program whose file was replaced while it runs.
        let file = file.strip_suffix(" (deleted)").unwrap_or(file);
        let name = file.strip_prefix("real-").unwrap_or(file).strip_suffix("-upgrade").unwrap_or_default();
        if name.is_empty() {
            bail!(
                "{file}: this program must be installed as NAME-upgrade or real-NAME-upgrade, NAME being the product"
            );
        }
        Ok(Self { name: name.to_owned(), root: PathBuf::from("/") })
    }

    /// The paths of the running program.
    pub fn of_this_program() -> Result<Self> {
        Self::of_program(&std::env::current_exe().context("where is this program?")?)
    }

    /// The same files below another root directory.
    #[must_use]
    pub fn below(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// The upgrader's own package, which is also the command people type: `xivo-upgrade`.
    pub fn package(&self) -> String {
        format!("{}-upgrade", self.name)
    }

    /// The product's short name, NAME.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the hooks of a phase, `pre-upgrade` for example, are: the shipped directory first, then the admin's own.
    pub fn hooks(&self, phase: impl fmt::Display) -> [PathBuf; 2] {
        ["usr/share", "etc"].map(|top| self.at(&format!("{top}/NAME-upgrade/{phase}.d")))
    }

    /// The root directory that everything is below: `/` but in tests.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.replace("NAME-upgrade", &self.package()))
    }
}

#[cfg(test)]
impl Paths {
    /// The paths of the product `acme` on a machine in a temporary directory, which has these files.
    pub(crate) fn of_test_machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Self) {
        let root = tempfile::tempdir().expect("a directory");
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("created");
            std::fs::write(path, content).expect("written");
        }
        let paths = Self::of_program(Path::new("acme-upgrade")).expect("a good name").below(root.path());
        (root, paths)
    }
}

/// A function for each path.
macro_rules! paths {
    ($($(#[$meaning:meta])* $name:ident = $path:literal)*) => {
        impl Paths {
            $($(#[$meaning])*
            pub fn $name(&self) -> PathBuf {
                self.at($path)
            })*
        }

        /// Every path, without the root directory and the name of the product.
        #[cfg(test)]
        const PATHS: &[&str] = &[$($path),*];
    };
}

paths! {
    /// The program that upgrades.
    real_program = "usr/bin/real-NAME-upgrade"
    /// `product.toml`, which the vendor ships.
    product = "usr/share/NAME-upgrade/product.toml"
    /// Migrations of the database, which the vendor ships.
    migrations = "usr/share/NAME-upgrade/migrations"
    /// The package sets that passed the vendor's gate.
    validated = "usr/share/NAME-upgrade/validated"
    /// The admin's settings.
    config = "etc/NAME-upgrade/config.toml"
    /// The state that outlives a run.
    state = "var/lib/NAME-upgrade"
    /// Dumps of the database from before its migrations.
    dumps = "var/lib/NAME-upgrade/dumps"
    /// Exists while packages have changed and the product's migration command has not run since.
    migration_pending = "var/lib/NAME-upgrade/migration-pending"
    /// The journal of the current run; there as long as the machine is between two versions.
    journal = "var/lib/NAME-upgrade/journal"
    /// The journal of the last run that ended.
    last_journal = "var/lib/NAME-upgrade/journal.last"
    /// There while the upgrader's own package is replaced.
    self_update = "var/lib/NAME-upgrade/self-update"
    /// The rollback data: the machine as it was before the upgrade.
    rollback = "var/lib/NAME-upgrade/rollback"
    /// The reports of past runs.
    history = "var/lib/NAME-upgrade/history"
    /// The log of all runs.
    log = "var/log/NAME-upgrade.log"
    /// The lock that a run holds.
    lock = "run/NAME-upgrade.lock"
    /// The events of the current run, or of the last one since the machine booted.
    events = "run/NAME-upgrade.events"
    /// The notice that users see when they log in (`pam_motd(8)`).
    message_of_the_day = "run/motd.d/NAME-upgrade"
    /// The policy that says what maintainer scripts may do to services.
    policy = "usr/sbin/policy-rc.d"
    /// The admin's own policy while ours is in its place.
    admins_policy = "usr/sbin/policy-rc.d.before-NAME-upgrade"
    /// Changes that dpkg has not yet merged into its database.
    dpkg_updates = "var/lib/dpkg/updates"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_is_the_name_of_the_product() {
        for program in ["/usr/bin/acme-upgrade", "/usr/bin/real-acme-upgrade", "/usr/bin/acme-upgrade (deleted)"] {
            let paths = Paths::of_program(Path::new(program)).expect(program);
            assert_eq!(paths.package(), "acme-upgrade");
            assert_eq!(paths.product(), Path::new("/usr/share/acme-upgrade/product.toml"));
            assert_eq!(
                paths.hooks("post-upgrade"),
                [
                    PathBuf::from("/usr/share/acme-upgrade/post-upgrade.d"),
                    PathBuf::from("/etc/acme-upgrade/post-upgrade.d")
                ]
            );
        }
    }

    #[test]
    fn the_admin_guide_names_every_path() {
        let paths = Paths::of_program(Path::new("/usr/bin/xivo-upgrade")).expect("a name");
        let mut all: Vec<PathBuf> = ["pre-upgrade", "post-upgrade"].map(|phase| paths.hooks(phase)).concat();
        // The directory of the other files, and dpkg's own.
        let not_named = [paths.state(), paths.dpkg_updates()];
        all.extend(PATHS.iter().map(|path| paths.at(path)).filter(|path| !not_named.contains(path)));
        let page = documented::Page::read("docs/admin.md");
        page.section("## Files").has_keys(all.iter().map(|path| path.display().to_string()));
    }

    #[test]
    fn a_program_with_another_name_serves_no_product() {
        for program in ["/usr/bin/upgrade", "/usr/bin/-upgrade", "/usr/bin/real--upgrade", "/"] {
            assert!(Paths::of_program(Path::new(program)).is_err(), "{program}");
        }
    }
}
