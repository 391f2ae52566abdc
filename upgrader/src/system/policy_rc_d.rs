//! A policy-rc.d that keeps maintainer scripts from restarting the product's services during an upgrade.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::files;
use crate::paths::Paths;
use crate::system::remove_file;

/// The first lines of our policy, by which it is recognized.
const MARK: &str = "#!/bin/sh\n# Written by the upgrader";

/// While this value exists, maintainer scripts do not start, stop or restart the product's services: the step `restart` restarts each
/// once, in order. Other services are not affected.
///
/// It is a policy-rc.d (the interface of invoke-rc.d(8) and deb-systemd-invoke(1)). The admin's own policy decides about all other
/// services, and is restored afterwards. If this process is killed, the file has no effect: it acts only while the lock of the run is
/// held.
#[derive(Debug)]
pub(crate) struct Policy {
    path: PathBuf,
    admins: PathBuf,
}

impl Policy {
    /// Installs the policy for these services.
    pub(crate) fn hold_back(paths: &Paths, services: &[String]) -> Result<Self> {
        let policy = Self { path: paths.policy(), admins: paths.admins_policy() };
        policy.clear()?;
        if files::is_there(&policy.path) {
            rename(&policy.path, &policy.admins)?;
        }
        let text = script(services, &paths.lock(), &policy.admins);
        // Atomically, also if the power is cut: a partial policy could do anything.
        files::replace(&policy.path, 0o755, text.as_bytes()).with_context(|| policy.path.display().to_string())?;
        Ok(policy)
    }

    /// Removes the policy of an earlier run, and restores the admin's own.
    pub(crate) fn remove_left_over(paths: &Paths) -> Result<()> {
        Self { path: paths.policy(), admins: paths.admins_policy() }.clear()
    }

    fn clear(&self) -> Result<()> {
        let has_admins = files::is_there(&self.admins);
        match files::content(&self.path) {
            // An empty policy is ours, too: a power cut can leave it.
            Ok(text) if text.starts_with(MARK.as_bytes()) || (text.is_empty() && has_admins) => {
                remove_file(&self.path).with_context(|| self.path.display().to_string())?;
            }
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| self.path.display().to_string()),
        }
        // Checked first: on a read-only filesystem the rename of a missing file fails, too.
        if !has_admins {
            return Ok(());
        }
        rename(&self.admins, &self.path)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        // Without the lock the file has no effect, and the next run removes it.
        let _ = self.clear();
    }
}

/// Renames a file, and returns when that is on the disk.
fn rename(from: &Path, to: &Path) -> Result<()> {
    files::rename(from, to).with_context(|| format!("{} cannot be renamed to {}", from.display(), to.display()))
}

/// The policy itself. 101 is "not allowed", 0 is "allowed" (/usr/share/doc/init-system-helpers/README.policy-rc.d.gz).
fn script(services: &[String], lock: &Path, admins: &Path) -> String {
    // A service may have instances: the scripts of postgresql name postgresql@15-main, or postgresql@15-* for all.
    let pattern = |service: &String| {
        let name = service.trim_end_matches(".service");
        if name.contains('@') { name.to_owned() } else { format!("{name}|{name}@*") }
    };
    let patterns: Vec<String> = services.iter().map(pattern).collect();
    format!(
        "{MARK} while packages change; it holds back nothing once {lock} is free.\n\
         service=$1\n\
         # invoke-rc.d passes its own option on.\n\
         if [ \"$service\" = --quiet ]; then service=$2; fi\n\
         service=${{service%.service}}\n\
         # flock makes a file that is not there: others could open it, and hold the lock.\n\
         if [ -e {lock} ] && ! flock --nonblock --shared {lock} true 2>/dev/null; then\n\
         \tcase \"$service\" in {patterns}) exit 101 ;; esac\n\
         fi\n\
         if [ -x {admins} ]; then exec {admins} \"$@\"; fi\n\
         exit 0\n",
        lock = lock.display(),
        admins = admins.display(),
        patterns = patterns.join("|"),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::system::command::Program;
    use crate::system::lock::Lock;

    /// What is in the directories that a policy needs.
    const FILES: &[(&str, &str)] = &[("usr/sbin/cron", ""), ("run/utmp", "")];

    fn allows(paths: &Paths, service: &str) -> bool {
        Program::new(paths.policy()).args([service, "restart"]).succeeds().expect("it runs")
    }

    fn services() -> Vec<String> {
        vec!["postgresql".to_owned(), "asterisk.service".to_owned()]
    }

    #[test]
    fn only_the_products_services_are_held_back_and_only_while_a_run_lives() {
        let (_root, paths) = Paths::of_test_machine(FILES);
        let lock = Lock::take(&paths.lock()).expect("free");
        let policy = Policy::hold_back(&paths, &services()).expect("written");
        for service in ["postgresql", "postgresql.service", "asterisk", "postgresql@15-main.service", "postgresql@15-*"]
        {
            assert!(!allows(&paths, service), "{service}");
        }
        let quietly = Program::new(paths.policy()).args(["--quiet", "asterisk", "restart"]).succeeds();
        assert!(!quietly.expect("it runs"), "invoke-rc.d --quiet gets around it");
        assert!(allows(&paths, "ssh") && allows(&paths, "postgresql-common"));
        drop(lock);
        assert!(allows(&paths, "postgresql"), "no run holds the lock, and it still denies");
        // After a power cut there is a policy and no lock.
        fs::remove_file(paths.lock()).expect("removed");
        assert!(allows(&paths, "postgresql") && !paths.lock().exists(), "it makes a lock that others can hold");
        drop(policy);
        assert!(!paths.policy().exists(), "it was left behind");
    }

    #[test]
    fn the_admins_own_policy_is_respected_and_comes_back() {
        let (_root, paths) = Paths::of_test_machine(FILES);
        let own = "#!/bin/sh\n[ \"$1\" != ssh ] || exit 101\n";
        fs::write(paths.policy(), own).expect("written");
        fs::set_permissions(paths.policy(), fs::Permissions::from_mode(0o755)).expect("mode set");
        let _lock = Lock::take(&paths.lock()).expect("free");
        let policy = Policy::hold_back(&paths, &services()).expect("written");
        assert!(!allows(&paths, "ssh") && !allows(&paths, "asterisk") && allows(&paths, "cron"));
        // Killed: nothing is cleaned up. The next run starts from what is there.
        std::mem::forget(policy);
        drop(Policy::hold_back(&paths, &services()).expect("written"));
        assert_eq!(fs::read_to_string(paths.policy()).expect("it is back"), own);
        assert!(!paths.admins_policy().exists());
        Policy::remove_left_over(&paths).expect("nothing to do");
        assert_eq!(fs::read_to_string(paths.policy()).expect("it stays"), own);
    }

    #[test]
    fn what_a_power_cut_leaves_of_ours_does_not_take_the_place_of_the_admins() {
        let (_root, paths) = Paths::of_test_machine(FILES);
        fs::write(paths.policy(), "").expect("written");
        fs::write(paths.admins_policy(), "#!/bin/sh\nexit 101\n").expect("written");
        drop(Policy::hold_back(&paths, &services()).expect("written"));
        assert_eq!(fs::read_to_string(paths.policy()).expect("it is back"), "#!/bin/sh\nexit 101\n");
        assert!(!paths.admins_policy().exists());
    }
}
