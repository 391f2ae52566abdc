//! Checks a package with lintian.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::machines::engine::Engine;
use crate::machines::image::Debian;
use crate::machines::machine::{Machine, Storage};

/// Checks a .deb with lintian on a machine, so that nothing is installed on this host. Warnings are failures; the package's overrides
/// list the exceptions.
pub fn run(file: &Path, out: &mut dyn Write) -> Result<()> {
    let package = std::fs::read(file).with_context(|| file.display().to_string())?;
    let name = file.file_name().context("a file")?.to_string_lossy();
    let engine = Engine::connect()?;
    engine.sweep()?;
    let machine = Machine::boot(Storage::Layers, &engine, &Debian::Trixie.machine())?;
    machine.install_from_debian(&["lintian"])?;
    let path = format!("/root/{name}");
    machine.write(&path, &package, 0o644)?;
    let lintian =
        ["lintian", "--allow-root", "--tag-display-limit=0", "--show-overrides", "--fail-on=error,warning", &path];
    let transcript = machine.command(&lintian).run()?;
    write!(out, "{}", transcript.screen)?;
    ensure!(transcript.exit == 0, "lintian reports errors or warnings");
    Ok(())
}
