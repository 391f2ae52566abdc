//! An interactive shell on a machine.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use rustix::termios::{self, OptionalActions, Termios};
use testcontainers::bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Machine;
use crate::runtime::block_on;

/// Sets the terminal to raw mode until this is dropped.
struct Raw(Termios);

impl Raw {
    fn set() -> Result<Self> {
        let before = termios::tcgetattr(std::io::stdin()).context("the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

impl Machine {
    /// Connects this terminal with a shell on the machine until its end. Without a terminal the shell reads its commands from stdin.
    pub fn shell(&self) -> Result<()> {
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        block_on(self.follow_shell(terminal))
    }

    async fn follow_shell(&self, terminal: bool) -> Result<()> {
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(terminal),
            env: Some(std::env::var("TERM").map(|name| format!("TERM={name}")).into_iter().collect()),
            cmd: Some(vec!["bash".to_owned()]),
            working_dir: Some("/root".to_owned()),
            ..CreateExecOptions::default()
        };
        let id = self.docker.create_exec(self.id()?, options).await?.id;
        let start = StartExecOptions { tty: terminal, ..StartExecOptions::default() };
        let StartExecResults::Attached { mut output, mut input } = self.docker.start_exec(&id, Some(start)).await?
        else {
            bail!("the engine does not let us see the shell");
        };
        let _raw = if terminal { Some(Raw::set()?) } else { None };
        if terminal {
            let size = termios::tcgetwinsize(std::io::stdout())?;
            let size = ResizeExecOptions { height: size.ws_row, width: size.ws_col };
            self.docker.resize_exec(&id, size).await?;
        }
        let typing = tokio::spawn(async move {
            let mut stdin = tokio::io::stdin();
            let mut keys = [0; 1024];
            while let Ok(count) = stdin.read(&mut keys).await
                && count > 0
                && input.write_all(&keys[..count]).await.is_ok()
                && input.flush().await.is_ok()
            {}
            let _ = input.shutdown().await;
        });
        let mut screen = std::io::stdout();
        while let Some(piece) = output.next().await {
            screen.write_all(&piece?.into_bytes())?;
            screen.flush()?;
        }
        typing.abort();
        Ok(())
    }
}
