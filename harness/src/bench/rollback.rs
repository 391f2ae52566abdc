//! Measures how long it takes to save rollback data and to roll back.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::sheet::{Sheet, median};
use crate::command;
use crate::packages::binaries;

/// How many paths the machine has; all of them are saved, upgraded and restored.
const PATHS: &str = "10000";

/// How often it is measured.
const RUNS: usize = 3;

/// The limits on ext4, in seconds.
const LIMITS: [(&str, f64); 2] = [("save", 1.0), ("restore", 5.0)];

/// The size of the disk, in bytes.
const DISK: u64 = 1 << 30;

/// Measures on ext4, on a loop device.
pub(super) fn measure(sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title(&format!("Rollback data of {PATHS} paths, all of them upgraded, on ext4 (medians of {RUNS})"))?;
    let program = binaries::build_example("rollback")?;
    let runs = (0..RUNS).map(|_| run(&program).context("only root can mount the disk")).collect::<Result<Vec<_>>>()?;
    for (step, limit) in LIMITS {
        let times = runs.iter().map(|run| seconds(run, step)).collect::<Result<Vec<_>>>()?;
        sheet.limited(step, median(times), limit, "s")?;
    }
    Ok(())
}

/// The seconds of a step, from what the program printed: `save 12.3`, in milliseconds.
fn seconds(printed: &str, step: &str) -> Result<f64> {
    let time = printed.lines().find_map(|line| line.strip_prefix(step)?.trim().parse::<f64>().ok());
    Ok(time.with_context(|| format!("no time of {step}: {printed}"))? / 1e3)
}

/// Runs the program on a new disk, and returns what it printed.
fn run(program: &Path) -> Result<String> {
    let scratch = Scratch::mount()?;
    let start = |verb: &str| command::output(program, [scratch.machine().as_os_str(), verb.as_ref(), PATHS.as_ref()]);
    start("install")?;
    Ok(String::from_utf8(start("all")?)?)
}

/// A directory with a disk that is mounted in it; unmounted and removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn mount() -> Result<Self> {
        let scratch = Self(binaries::target().join("bench").join("rollback"));
        let (disk, machine) = (scratch.0.join("disk"), scratch.machine());
        fs::create_dir_all(&machine).with_context(|| machine.display().to_string())?;
        fs::File::create(&disk)?.set_len(DISK)?;
        command::silently(Path::new("mkfs.ext4"), [OsStr::new("-qF"), disk.as_os_str()])?;
        let arguments = [OsStr::new("-o"), OsStr::new("loop"), disk.as_os_str(), machine.as_os_str()];
        command::silently(Path::new("mount"), arguments)?;
        Ok(scratch)
    }

    fn machine(&self) -> PathBuf {
        self.0.join("machine")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It fails where nothing is mounted; a disk that is still mounted keeps the directory.
        let _ = command::silently(Path::new("umount"), [self.machine().as_os_str()]);
        let _ = fs::remove_dir_all(&self.0);
    }
}
