use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Runs a program of this host with the caller's environment and screen.
pub fn run<'a>(program: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    run_with(program, arguments, &[])
}

/// The same with more variables in its environment.
#[expect(clippy::disallowed_methods, reason = "this is the one place that makes commands")]
pub fn run_with<'a>(
    program: &Path,
    arguments: impl IntoIterator<Item = &'a OsStr>,
    environment: &[(&str, &OsStr)],
) -> Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .with_context(|| format!("{} could not be started", program.display()))?;
    if !status.success() {
        bail!("{} failed ({status})", program.display());
    }
    Ok(())
}
