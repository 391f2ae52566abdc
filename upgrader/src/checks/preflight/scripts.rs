//! Checks that only root can change the hooks, and that their interpreters exist.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Finding;
use crate::model::hook::Phase;
use crate::paths::Paths;
use crate::system::hooks;

/// Checks that only root can change the hooks, which run as root, and that they can run.
pub(super) fn check(paths: &Paths) -> Vec<Finding> {
    let mut findings = Vec::new();
    for phase in [Phase::PreUpgrade, Phase::PostUpgrade] {
        for directory in paths.hooks(phase) {
            match hooks::find(std::slice::from_ref(&directory)) {
                Err(error) => findings.push(Finding::from(&error)),
                Ok(found) => {
                    findings.extend(fs::metadata(&directory).ok().and_then(|metadata| private(&directory, &metadata)));
                    findings.extend(found.hooks.iter().filter_map(|hook| judge(hook, phase)));
                }
            }
        }
    }
    findings
}

fn judge(hook: &Path, phase: Phase) -> Option<Finding> {
    let metadata = fs::metadata(hook).ok()?;
    private(hook, &metadata).or_else(|| {
        let interpreter = interpreter(&fs::read(hook).ok()?)?;
        let runs =
            fs::metadata(&interpreter).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        (!runs).then(|| {
            let (hook, interpreter) = (hook.display(), interpreter.display());
            let what = format!("the hook {hook} cannot run: its first line names {interpreter}, which is not there");
            let remedy = "Install what it names, or fix that line; or `chmod -x` the hook if it is not needed.";
            match phase {
                Phase::PreUpgrade => Finding::fatal(what, remedy),
                // This upgrade may install it.
                Phase::PostUpgrade => Finding::note(what, remedy),
            }
        })
    })
}

/// A finding if another user than root could replace the file.
fn private(path: &Path, metadata: &Metadata) -> Option<Finding> {
    let (shown, mode) = (path.display(), metadata.permissions().mode());
    if metadata.uid() != 0 {
        return Some(Finding::fatal(
            format!("{shown} runs as root, but belongs to user {}", metadata.uid()),
            format!("Look at what it does, then: `chown root: {shown}`."),
        ));
    }
    (mode & 0o022 != 0).then(|| {
        Finding::fatal(
            format!("{shown} runs as root, but others can change it (mode {:04o})", mode & 0o7777),
            format!("Look at what it does, then: `chmod go-w {shown}`."),
        )
    })
}

/// The program that a script's first line names.
fn interpreter(script: &[u8]) -> Option<PathBuf> {
    let line = script.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let program = String::from_utf8_lossy(line);
    Some(PathBuf::from(program.split_whitespace().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(script: &str, mode: u32) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        let hook = directory.path().join("10-hook");
        fs::write(&hook, script).expect("written");
        fs::set_permissions(&hook, fs::Permissions::from_mode(mode)).expect("mode set");
        let finding = judge(&hook, Phase::PreUpgrade).map_or_else(|| "fine".to_owned(), |finding| finding.what);
        finding.replace(&directory.path().display().to_string(), "/hooks")
    }

    #[test]
    fn a_hook_that_others_can_change_or_that_cannot_run_is_found() {
        if !rustix::process::geteuid().is_root() {
            // The files of this test belong to another user, which is the first finding.
            assert!(finding("", 0o755).contains("belongs to user"));
            return;
        }
        assert_eq!(finding("#!/bin/sh\n", 0o755), "fine");
        assert_eq!(finding("#! /bin/sh -eu\n", 0o700), "fine");
        assert_eq!(finding("\u{7f}ELF", 0o755), "fine");
        assert_eq!(finding("#!", 0o755), "fine");
        assert_eq!(finding("#!/bin/sh\n", 0o775), "/hooks/10-hook runs as root, but others can change it (mode 0775)");
        assert!(
            finding("#!/usr/bin/python2\n", 0o755)
                .contains("its first line names /usr/bin/python2, which is not there")
        );
    }
}
