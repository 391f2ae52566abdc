//! Finds daemons that a maintainer script has started under the filter of [`crate::system::without_sync`], and restarts them without it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};

use super::Processes;
use crate::system::systemd;

/// How long processes may take to end.
const TIMEOUT: Duration = Duration::from_secs(10);

const STEP: Duration = Duration::from_millis(50);

/// The directory of dpkg's maintainer scripts.
const SCRIPTS: &[u8] = b"/var/lib/dpkg/";

/// Variables that dpkg and debconf set for maintainer scripts.
const OF_SCRIPTS: [&[u8]; 3] = [b"DPKG_", b"DEBIAN_", b"DEBCONF_"];

/// A process that has outlived the maintainer script that started it.
#[derive(Debug)]
pub(crate) struct LeftBehind {
    pub(crate) process: u32,
    /// The name of its program.
    pub(crate) name: String,
    command: Vec<OsString>,
    directory: PathBuf,
    environment: Vec<OsString>,
    user: u32,
    group: u32,
}

impl Processes {
    /// The processes that still run under the filter once apt has ended, a moment later: programs that are about to end are not in it.
    pub(crate) fn left_behind(&self) -> Vec<LeftBehind> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let found = self.filtered();
            // A child of a maintainer script, which ends by itself.
            let ends = |left: &LeftBehind| left.is_of_script();
            if found.is_empty() || Instant::now() >= deadline || !found.iter().any(ends) {
                return found;
            }
            sleep(STEP);
        }
    }

    fn filtered(&self) -> Vec<LeftBehind> {
        let own = std::process::id();
        let (filters, group) = (self.filters(own), fs::read(self.file(own, "cgroup")).unwrap_or_default());
        let entries = self.proc.read_dir().into_iter().flatten();
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        ids.filter(|id| self.filters(*id) > filters && fs::read(self.file(*id, "cgroup")).is_ok_and(|of| of == group))
            .filter_map(|id| self.describe(id))
            .collect()
    }

    /// How many seccomp filters a process has (proc(5)).
    fn filters(&self, process: u32) -> u32 {
        let status = fs::read_to_string(self.file(process, "status")).unwrap_or_default();
        let count = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// None if the process ends meanwhile.
    fn describe(&self, process: u32) -> Option<LeftBehind> {
        let words = |name| fs::read(self.file(process, name)).ok().map(|text| split(&text));
        let owner = fs::metadata(self.file(process, "status")).ok()?;
        let name = fs::read(self.file(process, "comm")).ok()?;
        let left = LeftBehind {
            process,
            name: String::from_utf8_lossy(&name).trim_end().to_owned(),
            command: words("cmdline")?,
            directory: fs::read_link(self.file(process, "cwd")).ok()?,
            environment: words("environ")?,
            user: owner.uid(),
            group: owner.gid(),
        };
        // One that has ended has no command line.
        (!left.command.is_empty()).then_some(left)
    }
}

impl LeftBehind {
    /// True for a maintainer script or a part of it that runs in the background.
    pub(crate) fn is_of_script(&self) -> bool {
        self.command.iter().any(|word| word.as_bytes().starts_with(SCRIPTS))
    }

    /// Ends the process, and starts its program with the same arguments, environment and user in a unit of its own.
    ///
    /// # Errors
    /// If systemd cannot start the program.
    pub(crate) fn restart(&self) -> Result<()> {
        self.end();
        let of_script = |variable: &&OsString| OF_SCRIPTS.iter().any(|start| variable.as_bytes().starts_with(start));
        let environment: Vec<&OsStr> =
            self.environment.iter().filter(|variable| !of_script(variable)).map(OsString::as_os_str).collect();
        systemd::start_daemon(&self.command, &environment, &self.directory, self.user, self.group)
    }

    fn end(&self) {
        let Some(process) = i32::try_from(self.process).ok().and_then(Pid::from_raw) else { return };
        for signal in [Signal::TERM, Signal::KILL] {
            let deadline = Instant::now() + TIMEOUT;
            // An error means that it has ended.
            let mut there = kill_process(process, signal).is_ok();
            while there && Instant::now() < deadline {
                sleep(STEP);
                there = fs::read(format!("/proc/{}/cmdline", self.process)).is_ok_and(|text| !text.is_empty());
            }
            if !there {
                return;
            }
        }
    }
}

fn split(text: &[u8]) -> Vec<OsString> {
    text.split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect()
}
