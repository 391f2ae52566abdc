//! Checks that only root can change the hooks, and that their interpreters exist.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::files;
use crate::model::hook::Phase;
use crate::paths::Paths;
use crate::system::hooks;

/// How much of a hook is read for its first line, in bytes (`BINPRM_BUF_SIZE` of Linux is 256).
const FIRST_LINE: u64 = 256;

/// Checks that only root can change the hooks, which run as root, and that they can run.
pub(super) fn check(paths: &Paths) -> Vec<Finding> {
    let mut findings = Vec::new();
    for phase in [Phase::PreUpgrade, Phase::PostUpgrade] {
        for directory in paths.hooks(phase) {
            match hooks::find(std::slice::from_ref(&directory)) {
                Err(error) => findings.push(Finding::from(&error)),
                Ok(found) => {
                    findings.extend(private(&directory));
                    findings.extend(found.hooks.iter().filter_map(|hook| judge(hook, phase)));
                }
            }
        }
    }
    findings
}

fn judge(hook: &Path, phase: Phase) -> Option<Finding> {
    private(hook).or_else(|| {
        let mut script = Vec::new();
        files::open(hook).ok()?.take(FIRST_LINE).read_to_end(&mut script).ok()?;
        let interpreter = interpreter(&script)?;
        let runs = files::open(&interpreter)
            .and_then(|file| file.metadata())
            .is_ok_and(|file| file.permissions().mode() & 0o111 != 0);
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

/// A finding if another user than root can change the file, or a directory through which it is reached.
fn private(path: &Path) -> Option<Finding> {
    let failure = files::trusted(path).err()?;
    Some(Finding::from(&failure.into()))
}

/// The program that a script's first line names.
fn interpreter(script: &[u8]) -> Option<PathBuf> {
    let line = script.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let program = String::from_utf8_lossy(line);
    Some(PathBuf::from(program.split_whitespace().next()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

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
