//! Finds hooks, and runs one.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::exit::Failure;
use crate::files;
use crate::model::hook::{HookOutcome, Phase};
use crate::model::node::Role;
use crate::model::plan::Plan;
use crate::system::command::{Failed, Program};

/// The entries of the hook directories of a phase.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HookFiles {
    /// The hooks, first to run first: those of the first directory by name, then those of the next.
    pub hooks: Vec<PathBuf>,
    /// The skipped entries, each with the reason.
    pub skipped: Vec<(PathBuf, &'static str)>,
}

/// Lists the hooks in directories. An absent directory has none.
///
/// # Errors
/// If a directory is there but cannot be read.
pub fn find(directories: &[PathBuf]) -> Result<HookFiles> {
    let mut found = HookFiles::default();
    for directory in directories {
        let entries = super::entries(directory).with_context(|| {
            Failure::new(format!("{}: the hook directory cannot be read", directory.display()))
                .remedy("Make it a directory that root can read, or remove it.")
        });
        for path in entries? {
            match reason_to_skip(&path) {
                Some(reason) => found.skipped.push((path, reason)),
                None => found.hooks.push(path),
            }
        }
    }
    Ok(found)
}

/// The exit code of a hook that does not apply to this machine: `EX_TEMPFAIL` of sysexits.h, which no hook returns by accident.
const NOT_APPLICABLE: i32 = 75;

/// How many bytes of a hook's output are logged. Each line counts [`PER_LINE`] bytes more.
const MOST_OUTPUT: usize = 4 * 1024 * 1024;

/// The size of the time and the name before each line of the log, in bytes: with short lines they are most of the log.
const PER_LINE: usize = 40;

/// Runs a hook to its end, or until `limit`; its output goes line by line to `line`.
pub fn run(hook: &Path, phase: Phase, plan: &Plan, limit: Duration, line: &mut dyn FnMut(&str)) -> HookOutcome {
    let mut printed = 0_usize;
    // It may have been changed since the preflight check.
    if let Err(error) = files::trusted(hook) {
        return HookOutcome::Failed(format!("({error:#})"));
    }
    let result = Program::new(hook)
        .env("UPGRADE_PHASE", phase.to_string())
        .env("UPGRADE_VERSION_INSTALLED", plan.comes_from())
        .env("UPGRADE_VERSION_CANDIDATE", &plan.candidate)
        .env("UPGRADE_NODE_ROLE", plan.node.as_ref().map_or(Role::Alone, |node| node.role).to_string())
        .env("UPGRADE_RESUMED", if plan.unfinished_from.is_some() { "1" } else { "0" })
        .time_limit(limit)
        .lines(&mut |text| {
            let before = printed;
            printed = printed.saturating_add(text.len() + PER_LINE);
            if printed <= MOST_OUTPUT {
                line(text);
            } else if before <= MOST_OUTPUT {
                line("… and more than is written down here");
            }
        });
    match result.map_err(anyhow::Error::downcast::<Failed>) {
        Ok(()) => HookOutcome::Done,
        Err(Ok(Failed { code: Some(NOT_APPLICABLE), .. })) => HookOutcome::NotApplicable,
        Err(Ok(failed)) => HookOutcome::Failed(failed.how),
        Err(Err(error)) => HookOutcome::Failed(format!("({error:#})")),
    }
}

/// A hook's name, as it is shown.
pub fn name(hook: &Path) -> String {
    hook.file_name().unwrap_or(hook.as_os_str()).to_string_lossy().into_owned()
}

/// Why an entry of a hook directory is not a hook.
fn reason_to_skip(path: &Path) -> Option<&'static str> {
    if !is_hook_name(&name(path)) {
        return Some("not a name for a hook");
    }
    match files::metadata(path) {
        Err(_) => Some("a link to nowhere"),
        Ok(metadata) if !metadata.is_file() => Some("not a file"),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => Some("not executable"),
        Ok(_) => None,
    }
}

/// Names as run-parts(8) takes them, and extensions: letters, digits, `_` and `-`, in parts joined by single dots; none of
/// the copies that dpkg and ucf leave.
fn is_hook_name(name: &str) -> bool {
    let mut parts = name.split('.');
    parts.all(|part| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    }) && !name.split('.').skip(1).any(|extension| extension.starts_with("dpkg-") || extension.starts_with("ucf-"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use documented::Page;
    use proptest::prelude::*;

    use super::*;
    use crate::paths::Paths;

    fn put(directory: &Path, name: &str, mode: u32) {
        let path = directory.join(name);
        fs::write(&path, "#!/bin/sh\n").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode set");
    }

    #[test]
    fn shipped_hooks_come_before_the_admins_each_by_name() {
        let (shipped, local) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        for name in ["20-b", "10-a.sh", "100-c"] {
            put(shipped.path(), name, 0o755);
        }
        put(local.path(), "05-local", 0o755);
        let found = find(&[shipped.path().into(), local.path().into()]).expect("readable");
        let names: Vec<String> = found.hooks.iter().map(|hook| name(hook)).collect();
        assert_eq!(names, ["10-a.sh", "100-c", "20-b", "05-local"]);
        assert_eq!(found.skipped, []);
    }

    #[test]
    fn what_is_no_hook_is_skipped_with_a_reason() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        put(directory, "README", 0o644);
        put(directory, "10-edited~", 0o755);
        put(directory, "10-old.dpkg-old", 0o755);
        fs::create_dir(directory.join("20-directory")).expect("created");
        std::os::unix::fs::symlink("/nowhere", directory.join("30-link")).expect("linked");
        let found = find(&[directory.into()]).expect("readable");
        assert_eq!(found.hooks, Vec::<PathBuf>::new());
        let skipped: Vec<String> =
            found.skipped.iter().map(|(path, reason)| format!("{}: {reason}", name(path))).collect();
        assert_eq!(
            skipped,
            [
                "10-edited~: not a name for a hook",
                "10-old.dpkg-old: not a name for a hook",
                "20-directory: not a file",
                "30-link: a link to nowhere",
                "README: not executable"
            ]
        );
    }

    #[test]
    fn a_hook_meets_what_is_documented() {
        let page = Page::read("docs/reference/hooks.md");
        // The environment of a hook on a machine.
        let snapshot = documented::text("snapshots/hooks_of_all_kinds.snap");
        let (_, seen) = snapshot.split_once("\nThe environment of a hook:\n").expect("a hook has printed it");
        let seen: Vec<_> = seen.lines().filter_map(|line| line.trim().split_once('=')).collect();
        let environment = page.section("## Environment");
        environment.has_keys(seen.iter().map(|(variable, _)| *variable));
        assert_eq!(
            seen.iter().find(|(name, _)| *name == "LC_ALL").map(|(_, value)| (*value).to_owned()),
            Some(environment.beside("LC_ALL"))
        );
        let phases = [Phase::PreUpgrade, Phase::PostUpgrade].map(|phase| phase.to_string());
        let directories =
            page.rows().into_iter().filter(|row| phases.iter().any(|phase| row[0] == format!("`{phase}`")));
        for row in directories {
            let phase = if row[0].contains("pre") { Phase::PreUpgrade } else { Phase::PostUpgrade };
            let paths = Paths::of_program(Path::new("NAME-upgrade")).expect("a name").hooks(phase);
            let paths = paths.map(|path| format!("`{}/`", path.display()));
            assert_eq!(row[2..], paths);
        }
        assert!(page.section("## Exit code").keys().contains(&NOT_APPLICABLE.to_string()));
        assert!(page.section("## Output").text().contains(&format!("first {} MB", MOST_OUTPUT >> 20)));
        let minutes = crate::config::settings::TimeLimits::default().hook.as_secs() / 60;
        assert!(page.section("## Time limit").text().contains(&format!("({minutes} minutes by default)")));
    }

    #[test]
    fn names_and_reasons_are_as_documented() {
        let page = Page::read("docs/reference/hooks.md");
        for row in page.section("## Names").rows() {
            let Some(name) = row[0].strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
            match row[1].as_str() {
                "a hook" => assert!(is_hook_name(name), "{name}"),
                "none" => assert!(!is_hook_name(name), "{name}"),
                _ => {}
            }
        }
        let directory = tempfile::tempdir().expect("a directory");
        put(directory.path(), "no name", 0o755);
        put(directory.path(), "no-mode", 0o644);
        fs::create_dir(directory.path().join("no-file")).expect("created");
        std::os::unix::fs::symlink("/nowhere", directory.path().join("no-target")).expect("linked");
        let found = find(&[directory.path().into()]).expect("readable");
        let reasons: BTreeSet<String> = found.skipped.into_iter().map(|(_, reason)| reason.to_owned()).collect();
        let documented: BTreeSet<String> = page
            .section("## Names")
            .rows()
            .into_iter()
            .filter(|row| row[1] != "a hook" && row[1] != "none")
            .filter_map(|row| row[0].split('`').nth(1).map(str::to_owned))
            .collect();
        assert_eq!(documented, reasons);
    }

    #[test]
    fn an_absent_directory_has_no_hooks_and_an_unreadable_one_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(find(&[directory.path().join("absent")]).expect("absent is fine"), HookFiles::default());
        let file = directory.path().join("file");
        fs::write(&file, "").expect("written");
        let error = find(std::slice::from_ref(&file)).expect_err("a file is no directory");
        assert!(error.to_string().starts_with(&format!("{}: ", file.display())), "{error}");
    }

    proptest! {
        #[test]
        fn names_that_run_parts_takes_are_names_of_hooks(name in "[A-Za-z0-9_-]{1,20}", extension in "[a-z]{1,4}") {
            let extended = format!("{name}.{extension}");
            prop_assert!(is_hook_name(&name) && is_hook_name(&extended));
            for copy in ["~", ".", ".dpkg-new", ".dpkg-dist", ".ucf-old", ".sh.dpkg-old"] {
                let copy = format!("{name}{copy}");
                prop_assert!(!is_hook_name(&copy), "{copy}");
            }
        }

        #[test]
        fn a_name_with_any_other_character_is_none(before in "[a-z]{0,3}", other in prop_oneof!["[^A-Za-z0-9_.-]", "[!-,/:-@\\[-^`{-~]"], after in ".{0,3}") {
            let name = format!("{before}{other}{after}");
            prop_assert!(!is_hook_name(&name));
        }
    }
}
