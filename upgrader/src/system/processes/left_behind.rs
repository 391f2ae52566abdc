//! Finds what a maintainer script has left behind under the filter of [`crate::system::without_sync`], and restarts daemons without it.
//!
//! This process adopts what loses its parent (`PR_SET_CHILD_SUBREAPER` of prctl(2)), so that nothing of other programs is taken for it,
//! and nothing is missed that a login session has moved to another control group.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, getsid, kill_process, set_child_subreaper};

use super::Processes;
use crate::files;
use crate::system::systemd;

/// How long processes may take to end.
const TIMEOUT: Duration = Duration::from_secs(10);

const STEP: Duration = Duration::from_millis(50);

/// Variables that dpkg and debconf set for maintainer scripts.
const OF_SCRIPTS: [&[u8]; 3] = [b"DPKG_", b"DEBIAN_", b"DEBCONF_"];

/// Where programs are that are named without a directory.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A process that has outlived the maintainer script that started it.
#[derive(Debug)]
pub(crate) struct LeftBehind {
    pub(crate) process: u32,
    /// The name of its program.
    pub(crate) name: String,
    /// True if it can be restarted: it has a session of its own, as daemons have, and its command line names a program.
    pub(crate) is_daemon: bool,
    command: Vec<OsString>,
    directory: PathBuf,
    environment: Vec<OsString>,
    user: u32,
    group: u32,
}

/// Has this process adopt those that lose their parent from now on.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn adopt() -> Result<()> {
    set_child_subreaper(Some(rustix::process::getpid())).context("prctl(2)")
}

impl Processes {
    /// The adopted processes that still run under the filter. Jobs in the background get some time to end.
    pub(crate) fn left_behind(&self) -> Vec<LeftBehind> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let found = self.filtered();
            if found.iter().all(|left| left.is_daemon) || Instant::now() >= deadline {
                return found;
            }
            sleep(STEP);
        }
    }

    fn filtered(&self) -> Vec<LeftBehind> {
        let own = std::process::id();
        let filters = self.number(own, "Seccomp_filters");
        let names = files::names_in(&self.proc).unwrap_or_default();
        let ids = names.iter().filter_map(|name| name.to_str()?.parse::<u32>().ok());
        ids.filter(|id| self.number(*id, "PPid") == own && self.number(*id, "Seccomp_filters") > filters)
            .filter_map(|id| self.describe(id))
            .collect()
    }

    /// A number in the status of a process (proc(5)); 0 if there is none.
    fn number(&self, process: u32, name: &str) -> u32 {
        let status = files::text(self.file(process, "status")).unwrap_or_default();
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }

    /// None if the process ends meanwhile.
    fn describe(&self, process: u32) -> Option<LeftBehind> {
        let words = |name| files::content(self.file(process, name)).ok().map(|text| split(&text));
        let owner = files::metadata(self.file(process, "status")).ok()?;
        let name = files::content(self.file(process, "comm")).ok()?;
        let command = words("cmdline")?;
        let session = getsid(Pid::from_raw(process.try_into().ok()?)).ok()?;
        let is_in_chroot = files::target(self.file(process, "root")).is_ok_and(|root| root != Path::new("/"));
        // One that has ended has no command line.
        let program = Path::new(command.first()?);
        let is_there = PROGRAMS
            .iter()
            .any(|directory| files::metadata(Path::new(directory).join(program)).is_ok_and(|file| file.is_file()));
        Some(LeftBehind {
            process,
            name: String::from_utf8_lossy(&name).trim_end().to_owned(),
            is_daemon: is_there && !is_in_chroot && getsid(None).is_ok_and(|own| own != session),
            command,
            directory: files::target(self.file(process, "cwd")).ok()?,
            environment: words("environ")?,
            user: owner.uid(),
            group: owner.gid(),
        })
    }
}

impl LeftBehind {
    /// Ends the process, and starts its program with the same arguments, environment and user in a unit of its own.
    ///
    /// # Errors
    /// If systemd cannot start the program.
    pub(crate) fn restart(&self) -> Result<()> {
        self.end();
        let of_script = |variable: &&OsString| OF_SCRIPTS.iter().any(|start| variable.as_bytes().starts_with(start));
        let variables =
            self.environment.iter().filter(|variable| is_variable(variable.as_bytes()) && !of_script(variable));
        let variables: Vec<&OsStr> = variables.map(OsString::as_os_str).collect();
        systemd::start_daemon(&self.command, &variables, &self.directory, self.user, self.group)
    }

    fn end(&self) {
        let Some(process) = i32::try_from(self.process).ok().and_then(Pid::from_raw) else { return };
        for signal in [Signal::TERM, Signal::KILL] {
            let deadline = Instant::now() + TIMEOUT;
            // An error means that it has ended.
            let mut there = kill_process(process, signal).is_ok();
            while there && Instant::now() < deadline {
                sleep(STEP);
                there = files::content(format!("/proc/{}/cmdline", self.process)).is_ok_and(|text| !text.is_empty());
            }
            if !there {
                return;
            }
        }
    }
}

/// True for `NAME=value`. A daemon that gives itself a title may write it over its environment.
fn is_variable(text: &[u8]) -> bool {
    let name = text.split(|byte| *byte == b'=').next().unwrap_or_default();
    let is_word = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    is_word && name.len() < text.len() && name.first().is_some_and(|first| !first.is_ascii_digit())
}

/// The words of a list in which a NUL ends each.
fn split(text: &[u8]) -> Vec<OsString> {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_words_of_a_command_line_stay_and_titles_are_no_variables() {
        assert_eq!(split(b"daemon\0-o\0\0x\0"), ["daemon", "-o", "", "x"]);
        assert!(split(b"").is_empty());
        for (text, expected) in
            [("A_1=b=c", true), ("A=", true), ("1A=b", false), ("nginx: worker=", false), ("A", false), ("=b", false)]
        {
            assert_eq!(is_variable(text.as_bytes()), expected, "{text}");
        }
    }
}
