//! Runs programs on this host.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program of this host with the caller's environment and screen.
pub fn run<'a>(program: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    run_with(program, arguments, &[])
}

/// The same; gives what it printed on stdout. What it says on stderr is shown.
#[expect(clippy::disallowed_methods, reason = "this is the one place that makes commands")]
pub fn output<'a>(program: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<Vec<u8>> {
    let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{} could not be started", program.display()))?;
    if !output.status.success() {
        bail!("{} failed ({})", program.display(), output.status);
    }
    Ok(output.stdout)
}

/// The same without showing what it prints.
#[expect(clippy::disallowed_methods, reason = "this is the one place that makes commands")]
pub fn silently<'a>(program: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let status = output.with_context(|| format!("{} could not be started", program.display()))?.status;
    if !status.success() {
        bail!("{} failed ({status})", program.display());
    }
    Ok(())
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
