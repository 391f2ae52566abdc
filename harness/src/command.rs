//! Runs programs on this host.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Error, Result, ensure};

/// Runs a program of this host with the caller's environment and screen.
pub fn run<'a>(program: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    run_with(program, arguments, &[])
}

/// The same with more variables in its environment.
pub fn run_with<'a>(
    program: &Path,
    arguments: impl IntoIterator<Item = &'a OsStr>,
    environment: &[(&str, &OsStr)],
) -> Result<()> {
    finish(program, arguments, |command| {
        command.envs(environment.iter().copied()).stdin(Stdio::inherit()).stdout(Stdio::inherit())
    })
    .map(drop)
}

/// The same; gives what it printed on stdout. What it says on stderr is shown.
pub fn output<'a>(program: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<Vec<u8>> {
    finish(program, arguments, |command| command)
}

/// The same without showing what it prints.
pub fn silently<'a>(program: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    finish(program, arguments, |command| command.stderr(Stdio::null())).map(drop)
}

/// Executes this program again in this process, with the same arguments and more variables in its environment. Returns only the error.
#[expect(clippy::disallowed_methods, reason = "this file makes all commands")]
pub fn replace_this<'a>(environment: impl IntoIterator<Item = (&'a str, &'a OsStr)>) -> Error {
    match std::env::current_exe() {
        Ok(program) => {
            let mut command = Command::new(program);
            Error::new(command.args(std::env::args_os().skip(1)).envs(environment).exec())
        }
        Err(error) => Error::new(error),
    }
    .context("this program cannot be executed again")
}

#[expect(clippy::disallowed_methods, reason = "this file makes all commands")]
fn finish<'a>(
    program: &Path,
    arguments: impl IntoIterator<Item = &'a OsStr>,
    set_up: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<Vec<u8>> {
    let output = set_up(Command::new(program).args(arguments).stderr(Stdio::inherit())).output();
    let output = output.with_context(|| format!("{} could not be started", program.display()))?;
    ensure!(output.status.success(), "{} failed ({})", program.display(), output.status);
    Ok(output.stdout)
}
