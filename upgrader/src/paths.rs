//! Whose upgrader this is, and where its files are.

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
    #[must_use]
    pub fn package(&self) -> String {
        format!("{}-upgrade", self.name)
    }

    /// The product's short name, NAME.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `/usr/bin/real-NAME-upgrade`.
    #[must_use]
    pub fn real_program(&self) -> PathBuf {
        self.root.join(format!("usr/bin/real-{}", self.package()))
    }

    /// `/usr/share/NAME-upgrade/product.toml`: what the product is, shipped.
    #[must_use]
    pub fn product(&self) -> PathBuf {
        self.share().join("product.toml")
    }

    /// Where the hooks of a phase, `pre-upgrade` for example, are: the shipped directory first, then the admin's own.
    #[must_use]
    pub fn hooks(&self, phase: impl fmt::Display) -> [PathBuf; 2] {
        let directory = format!("{phase}.d");
        [self.share().join(&directory), self.root.join("etc").join(self.package()).join(&directory)]
    }

    /// `/usr/share/NAME-upgrade/migrations`: migrations of the database, shipped.
    #[must_use]
    pub fn migrations(&self) -> PathBuf {
        self.share().join("migrations")
    }

    /// `/usr/share/NAME-upgrade/validated`: the package sets that passed the vendor's gate, shipped.
    #[must_use]
    pub fn validated(&self) -> PathBuf {
        self.share().join("validated")
    }

    /// `/var/lib/NAME-upgrade/dumps`: the database as it was before its migrations.
    #[must_use]
    pub fn dumps(&self) -> PathBuf {
        self.state().join("dumps")
    }

    /// `/var/lib/NAME-upgrade/migration-owed`: packages changed, and the product's migration command has not run since.
    #[must_use]
    pub fn migration_owed(&self) -> PathBuf {
        self.state().join("migration-owed")
    }

    /// `/var/lib/NAME-upgrade/journal`: what the run under way has done; there as long as the machine is between two versions.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.state().join("journal")
    }

    /// `/var/lib/NAME-upgrade/journal.last`: what the last run did that came to its end.
    #[must_use]
    pub fn last_journal(&self) -> PathBuf {
        self.state().join("journal.last")
    }

    /// `/var/lib/NAME-upgrade/self-update`: there while the upgrader's own package is replaced.
    #[must_use]
    pub fn self_update(&self) -> PathBuf {
        self.state().join("self-update")
    }

    /// `/run/motd.d/NAME-upgrade`: what whoever logs in has to know (`pam_motd(8)`).
    #[must_use]
    pub fn message_of_the_day(&self) -> PathBuf {
        self.root.join("run/motd.d").join(self.package())
    }

    /// `/var/lib/NAME-upgrade/rollback`: the machine as it was before the upgrade.
    #[must_use]
    pub fn rollback(&self) -> PathBuf {
        self.state().join("rollback")
    }

    /// `/var/log/NAME-upgrade.log`.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join(format!("var/log/{}.log", self.package()))
    }

    /// `/run/NAME-upgrade.lock`.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join(format!("run/{}.lock", self.package()))
    }

    /// `/run/NAME-upgrade.events`: the recording of the run under way, or of the last one since the machine booted.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.root.join(format!("run/{}.events", self.package()))
    }

    /// `/var/lib/NAME-upgrade/history`: the reports of past runs.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.state().join("history")
    }

    /// `/etc/NAME-upgrade/config.toml`: the admin's settings.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("etc").join(self.package()).join("config.toml")
    }

    /// `/usr/sbin/policy-rc.d`: what maintainer scripts may do to services.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.root.join("usr/sbin/policy-rc.d")
    }

    /// `/var/lib/dpkg/updates`: what dpkg has done and not yet put into its database.
    #[must_use]
    pub fn dpkg_updates(&self) -> PathBuf {
        self.root.join("var/lib/dpkg/updates")
    }

    /// Where an admin's own policy is while ours is in its place.
    #[must_use]
    pub fn admins_policy(&self) -> PathBuf {
        self.root.join(format!("usr/sbin/policy-rc.d.before-{}", self.package()))
    }

    /// `/var/lib/NAME-upgrade`: what outlives a run.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib").join(self.package())
    }

    /// The root directory that everything is below: `/` but in tests.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn share(&self) -> PathBuf {
        self.root.join("usr/share").join(self.package())
    }
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
    fn the_admin_guide_knows_where_everything_lies() {
        let paths = Paths::of_program(Path::new("/usr/bin/xivo-upgrade")).expect("a name");
        let mut all: Vec<PathBuf> = ["pre-upgrade", "post-upgrade"].map(|phase| paths.hooks(phase)).concat();
        all.extend([
            paths.real_program(),
            paths.product(),
            paths.migrations(),
            paths.dumps(),
            paths.migration_owed(),
            paths.journal(),
            paths.last_journal(),
            paths.self_update(),
            paths.message_of_the_day(),
            paths.rollback(),
            paths.log(),
            paths.lock(),
            paths.events(),
            paths.history(),
            paths.config(),
            paths.policy(),
            paths.admins_policy(),
        ]);
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
