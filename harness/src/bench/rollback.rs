use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Sheet;
use crate::engine::Engine;
use crate::image::Debian;
use crate::machine::Machine;
use crate::{binaries, command};

/// How many paths the machine has that is armed, upgraded in all of them, and restored.
const PATHS: &str = "10000";

/// The limits on ext4, in seconds.
const LIMITS: [(&str, f64); 2] = [("arm", 1.0), ("restore", 5.0)];

/// How big the filesystem is that is made for this, in bytes.
const DISK: u64 = 1 << 30;

/// Where the program lies on a machine.
const PROGRAM: &str = "/usr/local/bin/rollback";

/// Measures the rollback store on the filesystems that are at hand: ext4, overlayfs, memory.
pub(super) fn measure(sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.title(&format!("The rollback store, {PATHS} paths, all of them upgraded"))?;
    let program = binaries::build_example("rollback")?;
    let directory = tempfile::tempdir_in(binaries::target())?;
    let (what, printed) = match Ext4::mount(directory.path()) {
        Ok(disk) => ("ext4", on_host(&program, &disk.directory)?),
        Err(error) => {
            sheet.line(&format!("the filesystem of this tree instead of ext4: {error:#}"))?;
            ("this host", on_host(&program, directory.path())?)
        }
    };
    tell(sheet, what, &printed, true)?;
    let engine = Engine::connect()?;
    engine.sweep()?;
    let machine = Machine::boot(&engine, &Debian::ALL[0].machine())?;
    machine.write(PROGRAM, &fs::read(&program)?, 0o755)?;
    for (what, directory) in [("overlayfs", "/srv/bench"), ("memory", "/tmp/bench")] {
        let printed = machine.sh(&format!("mkdir {directory}; {PROGRAM} {directory} paths {PATHS}"))?;
        tell(sheet, what, &printed, false)?;
    }
    Ok(())
}

fn on_host(program: &Path, directory: &Path) -> Result<String> {
    let arguments = [directory.as_os_str(), OsStr::new("paths"), OsStr::new(PATHS)];
    Ok(String::from_utf8(command::output(program, arguments)?)?)
}

/// Puts what the program printed on the sheet.
fn tell(sheet: &mut Sheet<'_>, what: &str, printed: &str, limited: bool) -> Result<()> {
    for line in printed.lines() {
        let Some((step, seconds)) =
            line.split_once(' ').and_then(|(step, ms)| Some((step, ms.parse::<f64>().ok()? / 1e3)))
        else {
            sheet.line(&format!("{what}: {line}"))?;
            continue;
        };
        match LIMITS.iter().find(|(name, _)| limited && *name == step) {
            Some((_, limit)) => sheet.limited(&format!("{what}: {step}"), seconds, *limit, "s")?,
            None => sheet.figure(&format!("{what}: {step}"), seconds, "s")?,
        }
    }
    Ok(())
}

/// A new ext4 filesystem in a file, unmounted when dropped.
struct Ext4 {
    directory: std::path::PathBuf,
}

impl Ext4 {
    fn mount(beside: &Path) -> Result<Self> {
        let (image, directory) = (beside.join("ext4.img"), beside.join("ext4"));
        fs::File::create(&image)?.set_len(DISK)?;
        fs::create_dir(&directory)?;
        command::silently(Path::new("mkfs.ext4"), [OsStr::new("-qF"), image.as_os_str()])?;
        let arguments = [OsStr::new("-o"), OsStr::new("loop"), image.as_os_str(), directory.as_os_str()];
        command::silently(Path::new("mount"), arguments).context("only root may mount")?;
        Ok(Self { directory })
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        // What stays mounted is seen when the directory cannot be removed.
        let _ = command::silently(Path::new("umount"), [self.directory.as_os_str()]);
    }
}
