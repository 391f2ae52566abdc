//! Runs systemd-inhibit: while a run changes the machine, logind refuses to shut it down.

use std::fs::File;
use std::io::PipeWriter;
use std::os::fd::OwnedFd;
use std::process::Child;

use anyhow::{Context as _, Result};

use crate::system::command::Program;

/// A lock of logind (systemd-inhibit(1)). Dropping it, or the end of this process, releases it.
#[derive(Debug)]
pub(crate) struct Inhibitor {
    /// The program behind the lock reads the other end of this pipe, and ends with it.
    pipe: Option<PipeWriter>,
    child: Child,
}

impl Inhibitor {
    /// Takes the lock. Before systemd 257, root is only warned by it.
    ///
    /// # Errors
    /// If there is no systemd-inhibit. Without logind there is no lock either, and only `output` says so.
    pub(crate) fn take(who: &str, output: File) -> Result<Self> {
        let (reader, writer) = std::io::pipe().context("no pipe")?;
        let program = Program::new("systemd-inhibit")
            .args(["--what=shutdown", "--mode=block", "--why=The upgrade of this machine is under way"])
            .arg(format!("--who={who}"))
            .arg("cat");
        let child = program.spawn(File::from(OwnedFd::from(reader)), output)?;
        Ok(Self { pipe: Some(writer), child })
    }
}

impl Drop for Inhibitor {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.wait();
    }
}
