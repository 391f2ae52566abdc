//! Finds processes that still run files which were replaced on disk, and their units.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

use self::cgroup::{Owner, owner};
use self::script::{Main, files_of_module, is_interpreter, main_of};
use crate::files;

pub(crate) mod cgroup;
pub(crate) mod left_behind;
pub(crate) mod maps;
pub(crate) mod script;

/// The unit of times in `/proc/PID/stat`: the kernel's `USER_HZ`, 100 on every architecture of a Debian release.
const TICKS_PER_SECOND: u64 = 100;

/// A script that changed within this time after the start of its process is the one that the process read: the times of files and
/// processes have different resolutions.
const TOLERANCE: Duration = Duration::from_millis(100);

/// The processes of a machine, from proc(5).
#[derive(Debug)]
pub(crate) struct Processes {
    proc: PathBuf,
    root: PathBuf,
    /// The boot time of the machine, by the current clock.
    boot: SystemTime,
}

/// The processes that still run replaced or removed files.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Obsolete {
    /// systemd itself, and the file.
    pub(crate) manager: Option<String>,
    /// The processes of the system's services that run such files, by the names of the services' units.
    pub(crate) services: BTreeMap<String, Vec<u32>>,
    /// The sessions of users and their service managers, by the names of their units.
    pub(crate) sessions: BTreeSet<String>,
    /// The names of programs that belong to no service.
    pub(crate) others: BTreeSet<String>,
}

impl Processes {
    /// The processes of the machine that this program runs on.
    pub(crate) fn of_this_machine() -> Self {
        // The time since boot goes on while a machine sleeps, and setting the clock does not change it.
        let up = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
        let boot = SystemTime::now().checked_sub(up).unwrap_or(SystemTime::UNIX_EPOCH);
        Self { proc: PathBuf::from("/proc"), root: PathBuf::from("/"), boot }
    }

    /// Every process that runs files which were replaced or removed. Those of containers are left out, and this one
    /// with the systemd-run that waits for its end.
    ///
    /// Only root sees those of others; processes that cannot be looked at, and those that end meanwhile, are passed over.
    ///
    /// # Errors
    /// If there is no proc file system.
    pub(crate) fn obsolete(&self) -> Result<Obsolete> {
        let mut found = Obsolete::default();
        let names = files::names_in(&self.proc).with_context(|| self.proc.display().to_string())?;
        let ids = names.iter().filter_map(|name| name.to_str()?.parse().ok());
        for id in ids.filter(|id| *id != std::process::id()) {
            if let Some(file) = self.replaced_file(id).filter(|_| !self.is_contained(id) && !self.has_started_us(id)) {
                self.add(&mut found, id, file);
            }
        }
        Ok(found)
    }

    /// A file that a process runs and that was replaced or removed on disk, if there is one.
    pub(crate) fn replaced_file(&self, process: u32) -> Option<String> {
        let maps = files::content(self.file(process, "maps")).ok()?;
        // Threads of the kernel and processes that have ended map nothing.
        if maps.is_empty() {
            return None;
        }
        maps::replaced(&maps).or_else(|| self.replaced_script(process))
    }

    /// The unit of the service that this program runs in, if it runs in one.
    pub(crate) fn own_service(&self) -> Option<String> {
        match self.owner(std::process::id()) {
            Owner::Service(unit) => Some(unit),
            _ => None,
        }
    }

    /// True for the systemd-run that started this program as a service.
    fn has_started_us(&self, process: u32) -> bool {
        let Some(own) = self.own_service() else { return false };
        let arguments = files::content(self.file(process, "cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument.strip_prefix(b"--unit=") == Some(own.as_bytes()))
    }

    fn add(&self, found: &mut Obsolete, id: u32, file: String) {
        match self.owner(id) {
            _ if id == 1 => found.manager = Some(file),
            Owner::Container => {}
            Owner::Service(unit) => found.services.entry(unit).or_default().push(id),
            Owner::Session(unit) => {
                found.sessions.insert(unit);
            }
            Owner::NoUnit => {
                let name = files::content(self.file(id, "comm")).unwrap_or_default();
                found.others.insert(String::from_utf8_lossy(&name).trim_end().to_owned());
            }
        }
    }

    fn owner(&self, process: u32) -> Owner {
        let text = files::content(self.file(process, "cgroup")).unwrap_or_default();
        owner(&String::from_utf8_lossy(&text))
    }

    /// True for a process in another pid namespace, as in a container.
    fn is_contained(&self, process: u32) -> bool {
        let namespace = |process| files::target(self.file(process, "ns/pid")).ok();
        // Where the namespaces cannot be seen, the control group decides alone.
        namespace(1).zip(namespace(process)).is_some_and(|(ours, its)| ours != its)
    }

    /// The script that a process runs, if it was replaced since.
    fn replaced_script(&self, process: u32) -> Option<String> {
        let program = files::target(self.file(process, "exe")).ok()?;
        if !is_interpreter(&program) {
            return None;
        }
        let script = self.script(process)?;
        let name = script.to_string_lossy().into_owned();
        if maps::is_short_lived(&name) {
            return None;
        }
        let began = self.began(process)? + TOLERANCE;
        let file = files::metadata(self.below_root(&script)).ok()?;
        let changed = file.modified().is_ok_and(|time| time > began)
            // Files of packages have the time at which the package was built.
            || (changed_inode(&file) > began && self.was_replaced_by_package(&script, began));
        changed.then_some(name)
    }

    /// The main script of an interpreter, by its path from the root.
    fn script(&self, process: u32) -> Option<PathBuf> {
        match main_of(&files::content(self.file(process, "cmdline")).ok()?)? {
            Main::File(path) if path.starts_with('/') => Some(PathBuf::from(path)),
            Main::File(path) => Some(files::target(self.file(process, "cwd")).ok()?.join(path)),
            Main::Module(name) => files_of_module(&name).into_iter().find(|path| files::exists(self.below_root(path))),
        }
    }

    /// The start time of a process, by the current clock.
    fn began(&self, process: u32) -> Option<SystemTime> {
        let ticks = ticks_at_start(&files::content(self.file(process, "stat")).ok()?)?;
        self.boot.checked_add(Duration::from_millis(ticks.checked_mul(1000 / TICKS_PER_SECOND)?))
    }

    /// True if a package with this file was unpacked after a time: dpkg then rewrites the package's list of files. The time of the file's
    /// inode is no indication, because a hard link changes it, too.
    fn was_replaced_by_package(&self, file: &Path, after: SystemTime) -> bool {
        let wanted = names_of(file);
        let directory = self.root.join("var/lib/dpkg/info");
        let Ok(names) = files::names_in(&directory) else { return false };
        names.iter().map(|name| directory.join(name)).any(|path| {
            path.extension() == Some(OsStr::new("list"))
                && files::metadata(&path).and_then(|metadata| metadata.modified()).is_ok_and(|time| time > after)
                && files::content(&path).is_ok_and(|text| {
                    text.split(|byte| *byte == b'\n').any(|line| wanted.iter().any(|name| name == line))
                })
        })
    }

    fn file(&self, process: u32, name: &str) -> PathBuf {
        self.proc.join(process.to_string()).join(name)
    }

    fn below_root(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The time at which anything about a file's inode changed last.
fn changed_inode(file: &std::fs::Metadata) -> SystemTime {
    use std::os::unix::fs::MetadataExt as _;
    let (seconds, nanoseconds) = (u64::try_from(file.ctime()), u32::try_from(file.ctime_nsec()));
    let since = Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The names that a file may have in a package: with /bin and /usr/bin being one directory, packages name either.
fn names_of(file: &Path) -> Vec<Vec<u8>> {
    let name = file.as_os_str().as_encoded_bytes();
    let other = name.strip_prefix(b"/usr").map_or_else(|| [b"/usr", name].concat(), <[u8]>::to_vec);
    vec![name.to_vec(), other]
}

/// Reads when a process began, in ticks since boot, from `/proc/PID/stat` (proc(5)): the 22nd field. The second is
/// the program's name in brackets, in which anything may stand.
fn ticks_at_start(stat: &[u8]) -> Option<u64> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
    text.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests;
