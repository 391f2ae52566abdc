use std::io::Write;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt as _;
use testcontainers::bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use testcontainers::bollard::models::ContainerConfig;
use testcontainers::bollard::query_parameters::{CommitContainerOptionsBuilder, UploadToContainerOptionsBuilder};
use testcontainers::bollard::{Docker, body_full};
use testcontainers::core::{CgroupnsMode, Host};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::engine::{Engine, OWNER, Owner, block_on};
use crate::image::Image;
use crate::transcript::Transcript;

/// The name at which a machine reaches the host that tests it.
pub const TESTER: &str = "repository.test";

/// How long a machine may take to boot, and a command to end.
const PATIENCE: Duration = Duration::from_secs(300);

/// A booted Debian machine: a container in which systemd is process 1. Gone when dropped, whatever happened.
#[derive(Debug)]
pub struct Machine {
    docker: Docker,
    container: Option<ContainerAsync<GenericImage>>,
}

impl Machine {
    /// Boots a machine and waits until systemd has started everything.
    pub fn boot(engine: &Engine, image: &Image) -> Result<Self> {
        let tester = engine.this_host()?;
        ensure!(image.exists(engine), "there is no machine image {image}: run `make setup`");
        let request = GenericImage::new(&image.repository, &image.tag)
            .with_label(OWNER, Owner::this().to_string())
            .with_hostname("exchange")
            .with_host(TESTER, Host::Addr(tester))
            // All that systemd needs of a container; no privileges.
            .with_cap_add("SYS_ADMIN")
            // Root of a real machine sees what the processes of others map.
            .with_cap_add("SYS_PTRACE")
            .with_security_opt("seccomp=unconfined")
            .with_security_opt("apparmor=unconfined")
            .with_cgroupns_mode(CgroupnsMode::Private)
            .with_startup_timeout(PATIENCE)
            .with_host_config_modifier(|host| {
                let tmpfs = ["/run", "/run/lock", "/tmp"].map(|path| (path.to_owned(), "exec".to_owned()));
                host.tmpfs = Some(tmpfs.into());
            });
        let limits = engine.limits()?.iter();
        let request = limits.fold(request, |request, (name, limit)| request.with_ulimit(name, *limit, Some(*limit)));
        let container = block_on(request.start()).context("the machine's container does not start")?;
        let machine = Self { docker: engine.docker().clone(), container: Some(container) };
        // The bus comes up a little after process 1: until then systemctl fails at once.
        let booted = machine.sh(
            "until systemctl is-system-running --wait 2>/dev/null | grep -E 'running|degraded'; do sleep 0.02; done",
        )?;
        ensure!(
            booted.trim() == "running",
            "the machine came up {}: {}",
            booted.trim(),
            machine.sh("systemctl --failed --no-legend")?
        );
        Ok(machine)
    }

    /// A command about to run on the machine, as root and without a terminal.
    #[must_use]
    pub fn command<'a>(&'a self, command: &[&str]) -> Command<'a> {
        Command {
            machine: self,
            words: command.iter().map(|&word| word.to_owned()).collect(),
            user: None,
            environment: Vec::new(),
            answers: None,
            live: None,
        }
    }

    /// Runs a shell script and gives what it printed.
    ///
    /// # Errors
    /// If it fails, with what it printed.
    pub fn sh(&self, script: &str) -> Result<String> {
        let Transcript { screen, exit, .. } = self.command(&["sh", "-euc", script]).run()?;
        ensure!(exit == 0, "`{script}` failed with exit code {exit} on the machine:\n{screen}");
        Ok(screen)
    }

    /// Writes a file, and the directories it needs. Not below /run and /tmp: those are in memory, where the engine cannot
    /// write.
    pub fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        ensure!(!path.starts_with("/run/") && !path.starts_with("/tmp/"), "{path} is in memory");
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        archive.append_data(&mut header, path.trim_start_matches('/'), content)?;
        let body = body_full(archive.into_inner()?.into());
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        block_on(self.docker.upload_to_container(self.id()?, Some(options), body)).with_context(|| path.to_owned())
    }

    /// Keeps the machine's disk as an image that others can boot from. What is in memory (/run, /tmp) is not part of it.
    pub fn save(&self, image: &Image) -> Result<()> {
        let id = self.id()?.to_owned();
        let options = CommitContainerOptionsBuilder::default()
            .container(&id)
            .repo(&image.repository)
            .tag(&image.tag)
            .pause(true)
            .build();
        block_on(self.docker.commit_container(options, ContainerConfig::default()))
            .with_context(|| image.to_string())?;
        Ok(())
    }

    fn id(&self) -> Result<&str> {
        Ok(self.container.as_ref().context("the machine is gone")?.id())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(container) = self.container.take() {
            // What cannot be removed now is removed by the next run's sweep.
            let _ = block_on(container.rm());
        }
    }
}

/// A command about to run on a machine.
pub struct Command<'a> {
    machine: &'a Machine,
    words: Vec<String>,
    user: Option<String>,
    environment: Vec<String>,
    answers: Option<Vec<(String, String)>>,
    live: Option<&'a mut dyn Write>,
}

impl<'a> Command<'a> {
    /// As another user than root.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// With one more variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// At a terminal, where somebody types `answer` as soon as the screen ends with `prompt`.
    #[must_use]
    pub fn answer(mut self, prompt: &str, answer: &str) -> Self {
        self.answers.get_or_insert_default().push((prompt.to_owned(), answer.to_owned()));
        self
    }

    /// With its screen copied to `live` as it comes.
    #[must_use]
    pub fn live(mut self, live: &'a mut dyn Write) -> Self {
        self.live = Some(live);
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// If it does not end, or is never asked a question that it was to be asked.
    pub fn run(self) -> Result<Transcript> {
        let typed = self.words.join(" ");
        block_on(async { tokio::time::timeout(PATIENCE, self.follow()).await })
            .with_context(|| format!("`{typed}` did not end within {PATIENCE:?}"))?
            .with_context(|| format!("`{typed}` on the machine"))
    }

    async fn follow(self) -> Result<Transcript> {
        let Self { machine, words, user, environment, answers, mut live } = self;
        let typed = words.join(" ");
        let tty = answers.is_some();
        // Without a terminal the two streams come in two frames each; one stream keeps their order.
        let wrapper = ["sh", "-c", "exec \"$@\" 2>&1", "sh"].map(str::to_owned);
        let command = if tty { words } else { wrapper.into_iter().chain(words).collect() };
        let options = CreateExecOptions {
            attach_stdin: Some(tty),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(tty),
            env: Some(environment),
            cmd: Some(command),
            user,
            ..CreateExecOptions::default()
        };
        let exec = machine.docker.create_exec(machine.id()?, options).await?.id;
        let start = StartExecOptions { tty, ..StartExecOptions::default() };
        let StartExecResults::Attached { mut output, mut input } =
            machine.docker.start_exec(&exec, Some(start)).await?
        else {
            bail!("the engine does not let us see the screen");
        };
        let mut screen = Screen::default();
        let mut answers = answers.unwrap_or_default().into_iter().peekable();
        while let Some(piece) = output.next().await {
            let new = screen.add(&piece?.into_bytes());
            if let Some(live) = &mut live {
                live.write_all(new.as_bytes())?;
                live.flush()?;
            }
            if let Some((_, answer)) = answers.next_if(|(prompt, _)| screen.text.ends_with(prompt.as_str())) {
                send(&mut input, &answer).await?;
            }
        }
        if let Some((prompt, _)) = answers.next() {
            bail!("nobody asked {prompt:?}; the screen was:\n{}", screen.text);
        }
        Ok(Transcript { command: typed, screen: screen.text, exit: exit_code(&machine.docker, &exec).await? })
    }
}

async fn send(input: &mut Pin<Box<dyn AsyncWrite + Send>>, answer: &str) -> Result<()> {
    input.write_all(answer.as_bytes()).await?;
    Ok(input.flush().await?)
}

/// The engine closes the stream a moment before it knows the exit code.
async fn exit_code(docker: &Docker, exec: &str) -> Result<i64> {
    loop {
        let state = docker.inspect_exec(exec).await?;
        if let (Some(false), Some(code)) = (state.running, state.exit_code) {
            return Ok(code);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A screen under way: bytes as they come, text with plain ends of lines.
#[derive(Default)]
struct Screen {
    text: String,
    pending: Vec<u8>,
}

impl Screen {
    /// Adds bytes and gives the text that they made. What may be the first half of a character or of an end of line waits.
    fn add(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let complete = match std::str::from_utf8(&self.pending) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.pending.len(),
        };
        let complete = if self.pending[..complete].ends_with(b"\r") { complete - 1 } else { complete };
        let rest = self.pending.split_off(complete);
        let new = String::from_utf8_lossy(&std::mem::replace(&mut self.pending, rest)).replace("\r\n", "\n");
        self.text.push_str(&new);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_and_ends_of_lines_may_come_in_halves() {
        let mut screen = Screen::default();
        for byte in "a\r\né\u{fffd}b\r\n".as_bytes() {
            screen.add(std::slice::from_ref(byte));
        }
        assert_eq!(screen.text, "a\né\u{fffd}b\n");
        screen.add(b"\xffz");
        assert!(screen.text.ends_with("\u{fffd}z"), "what is no text does not hold up the rest");
    }
}
