//! Finds the reasons to reboot the machine.

use std::collections::BTreeSet;
use std::path::Path;

use crate::files;
use crate::model::plan::{ChangeKind, Plan};
use crate::model::version;
use crate::system::dpkg;

/// Packages whose old version stays in use until a reboot, with the reason.
const STAYS_IN_USE: [(&[&str], &str); 2] = [
    (&["libc6", "libc6.1"], "programs that were not restarted still use the old one"),
    (&["dbus", "dbus-daemon", "dbus-broker"], "the message bus cannot be restarted on a machine that is in use"),
];

/// The boot id (random(4)); empty if the kernel has none.
pub(crate) fn boot_id() -> String {
    files::text("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The reasons to reboot the machine; empty if there are none.
///
/// `root` is the root directory of the machine. `plan` has the changes since its boot, if they are known.
pub(crate) fn reasons(root: &Path, plan: Option<&Plan>) -> Vec<String> {
    collect(root, plan, |package| dpkg::installed_version(package).ok().flatten())
}

fn collect(root: &Path, plan: Option<&Plan>, installed: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut reasons = Vec::new();
    reasons.extend(newer_kernel(root, installed));
    for change in plan.iter().flat_map(|plan| &plan.changes) {
        let package = change.package.bare();
        let stays = STAYS_IN_USE.iter().find(|(packages, _)| packages.contains(&package));
        if let (Some((_, why)), ChangeKind::Upgrade { from, to }) = (stays, &change.kind) {
            let reason = format!("{package} {from} -> {to}: {why}");
            // One package for two architectures is one reason.
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
    }
    reasons.extend(asked_for(root));
    reasons
}

/// What packages ask for: `/run/reboot-required`, and in `/run/reboot-required.pkgs` who they are (update-notifier's
/// `notify-reboot-required`, which kernels and libraries call).
fn asked_for(root: &Path) -> Option<String> {
    // On many machines it is below /var/run, which is the same.
    let file = root.join("run/reboot-required");
    if !files::exists(file) {
        return None;
    }
    let packages = files::content(root.join("run/reboot-required.pkgs")).unwrap_or_default();
    let packages = String::from_utf8_lossy(&packages);
    let packages: BTreeSet<&str> = packages.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    Some(match packages.join(" ") {
        none if none.is_empty() => "a package asks for it (/run/reboot-required)".to_owned(),
        packages => format!("asked for by {packages} (/run/reboot-required)"),
    })
}

/// A kernel that is installed and newer than the one that runs.
fn newer_kernel(root: &Path, installed_version: impl Fn(&str) -> Option<String>) -> Option<String> {
    // A container runs its host's kernel, whatever is installed in it. systemd leaves this file in each.
    if files::exists(root.join("run/systemd/container")) {
        return None;
    }
    let read = |path: &str| files::text(root.join(path)).ok();
    let running = read("proc/sys/kernel/osrelease")?;
    let running = running.trim();
    let installed = kernels(&root.join("boot"));
    let newest =
        installed.iter().filter(|kernel| flavour(kernel) == flavour(running)).max_by(|a, b| version::compare(a, b))?;
    if version::is_newer(newest, running) {
        return Some(format!("kernel {newest} is installed, {running} is running"));
    }
    // Small updates keep the name and the place of a kernel.
    let built = read("proc/sys/kernel/version")?;
    let running_package = package_version(&built)?;
    let installed_package = installed_version(&format!("linux-image-{running}"))?;
    (installed_package != running_package)
        .then(|| format!("kernel {running} is installed as {installed_package}, {running_package} is running"))
}

/// The releases of the kernels in a directory: `6.1.0-13-amd64` for each `vmlinuz-6.1.0-13-amd64`.
fn kernels(boot: &Path) -> Vec<String> {
    let names = files::names_in(boot).unwrap_or_default().into_iter();
    names
        .filter_map(|name| name.into_string().ok())
        .filter_map(|name| Some(name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("vmlinux-"))?.to_owned()))
        // Temporary files of dpkg, and copies of the admin.
        .filter(|release| !["dpkg-new", "dpkg-tmp", "bak", "old"].iter().any(|end| release.ends_with(end)))
        .collect()
}

/// The flavour of a kernel, at the end of its release: `amd64`, `cloud-amd64`, `rt-amd64`.
fn flavour(release: &str) -> &str {
    let words = release.rmatch_indices('-').map(|(dash, _)| &release[dash + 1..]);
    words.take_while(|word| word.starts_with(|c: char| c.is_ascii_alphabetic())).last().unwrap_or_default()
}

/// The version of the package in what Debian's kernels say of their build: `#1 SMP PREEMPT_DYNAMIC Debian 6.1.55-1 (2023-09-29)`.
fn package_version(built: &str) -> Option<&str> {
    built.split_once(" Debian ")?.1.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::model::plan::Change;
    use crate::paths::Paths;

    fn none(_: &str) -> Option<String> {
        None
    }

    const RUNNING: (&str, &str) = ("proc/sys/kernel/osrelease", "6.1.0-9-amd64\n");

    #[test]
    fn a_newer_kernel_is_a_reason_and_an_older_or_other_one_is_not() {
        let (root, _) = Paths::of_test_machine(&[
            RUNNING,
            ("boot/vmlinuz-6.1.0-9-amd64", ""),
            ("boot/vmlinuz-5.10.0-20-amd64", ""),
        ]);
        assert!(collect(root.path(), None, none).is_empty());
        fs::write(root.path().join("boot/vmlinuz-6.1.0-13-rt-amd64"), "").expect("written");
        fs::write(root.path().join("boot/vmlinuz-6.1.0-12-amd64.dpkg-new"), "").expect("written");
        assert!(collect(root.path(), None, none).is_empty(), "it is for another purpose, or not there yet");
        fs::write(root.path().join("boot/vmlinuz-6.1.0-13-amd64"), "").expect("written");
        assert_eq!(collect(root.path(), None, none), ["kernel 6.1.0-13-amd64 is installed, 6.1.0-9-amd64 is running"]);
        fs::create_dir_all(root.path().join("run/systemd")).expect("created");
        fs::write(root.path().join("run/systemd/container"), "lxc").expect("written");
        assert!(collect(root.path(), None, none).is_empty(), "a container has no kernel of its own");
    }

    #[test]
    fn a_kernel_that_was_replaced_under_its_name_is_a_reason() {
        let installed = |version: &'static str| {
            move |package: &str| (package == "linux-image-6.1.0-9-amd64").then(|| version.to_owned())
        };
        let built = ("proc/sys/kernel/version", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.55-1 (2023-09-29)\n");
        let kernel = ("boot/vmlinuz-6.1.0-9-amd64", "");
        let (root, _) = Paths::of_test_machine(&[RUNNING, built, kernel]);
        assert!(collect(root.path(), None, installed("6.1.55-1")).is_empty());
        assert_eq!(
            collect(root.path(), None, installed("6.1.66-1")),
            ["kernel 6.1.0-9-amd64 is installed as 6.1.66-1, 6.1.55-1 is running"]
        );
    }

    #[test]
    fn a_package_that_stays_in_use_is_a_reason_and_so_is_one_that_asks() {
        let (root, _) = Paths::of_test_machine(&[
            ("run/reboot-required", ""),
            ("run/reboot-required.pkgs", "linux-base\nlibc6\nlinux-base\n"),
        ]);
        let mut changes =
            ["dbus", "libc6", "libc6:i386", "libc6-dev"].map(|name| Change::upgrade(name, "1", "2")).to_vec();
        changes.push(Change::install("dbus-broker", "1"));
        let plan = Plan { changes, ..Plan::default() };
        assert_eq!(
            collect(root.path(), Some(&plan), none),
            [
                "dbus 1 -> 2: the message bus cannot be restarted on a machine that is in use",
                "libc6 1 -> 2: programs that were not restarted still use the old one",
                "asked for by libc6 linux-base (/run/reboot-required)"
            ]
        );
        fs::remove_file(root.path().join("run/reboot-required.pkgs")).expect("removed");
        assert_eq!(collect(root.path(), None, none), ["a package asks for it (/run/reboot-required)"]);
    }

    proptest! {
        #[test]
        fn whatever_kernels_are_called_nothing_breaks(release: String, built: String) {
            let (_, _) = (flavour(&release), package_version(&built));
        }
    }
}
