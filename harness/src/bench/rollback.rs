//! How long it takes to arm the rollback store and to go back.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Sheet, median};
use crate::command;
use crate::packages::binaries;

/// How many paths the machine has that is armed, upgraded in all of them, and restored.
const PATHS: &str = "10000";

/// How often.
const RUNS: usize = 3;

/// The limits on ext4, in seconds.
const LIMITS: [(&str, f64); 2] = [("arm", 1.0), ("restore", 5.0)];

/// How big the disk is that is made for this, in bytes.
const DISK: u64 = 1 << 30;

/// Measures the rollback store on the filesystems that this host can mount.
pub(super) fn measure(sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title(&format!("The rollback store, {PATHS} paths, all of them upgraded (medians of {RUNS})"))?;
    let program = binaries::build_example("rollback")?;
    for filesystem in [Filesystem::Ext4, Filesystem::Overlay, Filesystem::Memory] {
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(run(&program, filesystem).context("only root can mount what is measured")?);
        }
        for line in runs[0].lines().filter(|line| step(line).is_none()) {
            sheet.line(&format!("{filesystem:?}: {line}"))?;
        }
        for (name, _) in runs[0].lines().filter_map(step) {
            let times = runs.iter().flat_map(|run| run.lines().filter_map(step).filter(|(other, _)| *other == name));
            let time = median(times.map(|(_, time)| time).collect(), f64::total_cmp);
            let what = format!("{filesystem:?}: {name}");
            match LIMITS.iter().find(|(limited, _)| filesystem == Filesystem::Ext4 && *limited == name) {
                Some((_, limit)) => sheet.limited(&what, time, *limit, "s")?,
                None => sheet.figure(&what, time, "s")?,
            }
        }
    }
    Ok(())
}

/// Reads a line of the program's about a step: its name and its seconds.
fn step(line: &str) -> Option<(&str, f64)> {
    let (name, milliseconds) = line.split_once(' ')?;
    Some((name, milliseconds.parse::<f64>().ok()? / 1e3))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filesystem {
    Ext4,
    /// As in a container: the machine is in the lower layer.
    Overlay,
    Memory,
}

/// What the program prints about a new machine on a filesystem.
fn run(program: &Path, filesystem: Filesystem) -> Result<String> {
    let scratch = Scratch::new(binaries::target().join("bench").join("rollback"))?;
    let machine = scratch.directory("machine")?;
    let image = scratch.0.join("disk");
    fs::File::create(&image)?.set_len(DISK)?;
    command::silently(Path::new("mkfs.ext4"), [OsStr::new("-qF"), image.as_os_str()])?;
    let start = |directory: &Path, verb: &str| {
        let arguments = [directory.as_os_str(), OsStr::new(verb), OsStr::new(PATHS)];
        Ok(String::from_utf8(command::output(program, arguments)?)?)
    };
    match filesystem {
        Filesystem::Ext4 => mount(&["-o".into(), "loop".into(), image.into()], &machine)?,
        Filesystem::Memory => mount(&["-t".into(), "tmpfs".into(), "tmpfs".into()], &machine)?,
        Filesystem::Overlay => {
            let disk = scratch.directory("overlay")?;
            mount(&["-o".into(), "loop".into(), image.into()], &disk)?;
            let [lower, upper, work] = ["lower", "upper", "work"].map(|name| disk.join(name));
            for directory in [&lower, &upper, &work] {
                fs::create_dir(directory)?;
            }
            start(&lower, "install")?;
            let layers = [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)];
            let options = layers.map(|(name, directory)| format!("{name}={}", directory.display())).join(",");
            mount(&["-t".into(), "overlay".into(), "-o".into(), options.into(), "overlay".into()], &machine)?;
            return start(&machine, "all");
        }
    }
    start(&machine, "install")?;
    start(&machine, "all")
}

fn mount(arguments: &[OsString], directory: &Path) -> Result<()> {
    let arguments = arguments.iter().map(OsString::as_os_str).chain([directory.as_os_str()]);
    command::silently(Path::new("mount"), arguments)
}

/// A directory that is removed when dropped, after what is mounted in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        Ok(Self(directory))
    }

    fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.0.join(name);
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        Ok(directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for name in ["machine", "overlay"] {
            // It fails where nothing is mounted; what is still mounted keeps the directory.
            let _ = command::silently(Path::new("umount"), [self.0.join(name).as_os_str()]);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}
