//! A command on a machine: its arguments, its timeout, its transcript.

use std::collections::VecDeque;
use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{Stream, StreamExt as _};
use testcontainers::bollard::Docker;
use testcontainers::bollard::container::LogOutput;
use testcontainers::bollard::errors::Error;
use testcontainers::bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{Machine, TIMEOUT};
use crate::machines::terminal::{self, Terminal};
use crate::machines::transcript::{HUNG_UP, Transcript};
use crate::runtime::block_on;

/// The beginning of the engine's message that it could not start a command. On a busy host it sometimes fails to enter a container.
const NOT_STARTED: &str = "OCI runtime exec failed";

/// How often it may try again.
const ATTEMPTS: u32 = 3;

/// Without a terminal the two streams come in two frames each; one stream keeps their order.
const WITHOUT_TERMINAL: &str = r#"exec "$@" 2>&1"#;

/// Gives the terminal its size from within, before the command can ask for it: the engine does that only afterwards.
const AT_TERMINAL: &str = r#"stty rows "$1" columns "$2"; shift 2; exec "$@""#;

/// Gives the command a second terminal inside the first, and writes down which process holds it: when that is killed, the
/// terminal is gone. (The engine keeps the first one open.)
const GOING_AWAY: &str = r#"echo $$ >"$1"; exec script --quiet --return --flush --command "$2" /dev/null"#;

/// A command about to run on a machine.
pub struct Command<'a> {
    machine: &'a Machine,
    words: Vec<String>,
    user: Option<String>,
    environment: Vec<String>,
    shell: String,
    timeout: Duration,
    dialogue: Option<Dialogue>,
    live: Option<&'a mut dyn Write>,
}

/// The actions at a terminal, each with the prompt for which it waits.
type Dialogue = VecDeque<(String, TerminalAction)>;

enum TerminalAction {
    Type(String),
    Run(String),
    HangUp,
}

impl<'a> Command<'a> {
    /// As root and without a terminal.
    pub(super) fn new(machine: &'a Machine, words: &[&str]) -> Self {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Self {
            machine,
            words,
            user: None,
            environment: Vec::new(),
            shell: String::new(),
            timeout: TIMEOUT,
            dialogue: None,
            live: None,
        }
    }

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

    /// From a shell that ran these commands before.
    #[must_use]
    pub fn in_shell(mut self, commands: &str) -> Self {
        commands.clone_into(&mut self.shell);
        self
    }

    /// At a terminal without input.
    #[must_use]
    pub fn at_terminal(mut self) -> Self {
        self.dialogue.get_or_insert_default();
        self
    }

    /// At a terminal; types `answer` once `prompt` is printed after the previous answer.
    #[must_use]
    pub fn answer(self, prompt: &str, answer: &str) -> Self {
        self.at_prompt(prompt, TerminalAction::Type(answer.to_owned()))
    }

    /// At a terminal; once `prompt` is printed, runs another command to its end before the answer.
    #[must_use]
    pub fn run_at_prompt(self, prompt: &str, command: &str) -> Self {
        self.at_prompt(prompt, TerminalAction::Run(command.to_owned()))
    }

    /// At a terminal that hangs up once `prompt` is printed, like that of an ssh session whose connection is lost. Its processes get
    /// SIGHUP and can neither read nor write; those that survive continue. The transcript ends with the prompt or a few lines later,
    /// and its exit code is [`HUNG_UP`].
    #[must_use]
    pub fn hang_up_after(self, prompt: &str) -> Self {
        self.at_prompt(prompt, TerminalAction::HangUp)
    }

    fn at_prompt(mut self, prompt: &str, action: TerminalAction) -> Self {
        self.dialogue.get_or_insert_default().push_back((prompt.to_owned(), action));
        self
    }

    /// With another timeout.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Copies its output to `live` as it comes, escape sequences included.
    #[must_use]
    pub fn live(mut self, live: &'a mut dyn Write) -> Self {
        self.live = Some(live);
        self
    }

    /// Runs it to its end. Fails if it does not end, or does not print a prompt.
    pub fn run(self) -> Result<Transcript> {
        let (typed, timeout) = (self.words.join(" "), self.timeout);
        let (screen, exit) = block_on(async { tokio::time::timeout(timeout, self.follow()).await })
            .with_context(|| format!("`{typed}` did not end within {timeout:?}"))?
            .with_context(|| format!("`{typed}` on the machine"))?;
        Ok(Transcript { command: typed, screen, exit })
    }

    /// Runs it to its end, which has to be with this exit code.
    pub fn exits(self, code: i64) -> Result<Transcript> {
        let transcript = self.run()?;
        ensure!(transcript.exit == code, "exit code {}, not {code}: {transcript}", transcript.exit);
        Ok(transcript)
    }

    /// Runs it on a machine whose power is cut before it ends. The transcript has what was printed before.
    pub fn run_until_power_loss(self) -> Result<Transcript> {
        let command = self.words.join(" ");
        let at_terminal = self.dialogue.is_some();
        let mut seen = Vec::new();
        let ended = Command { live: Some(&mut seen), ..self }.run();
        if let Ok(Transcript { exit: 0, .. }) = &ended {
            bail!("`{command}` ended although the power was cut: {ended:?}");
        }
        let screen = if at_terminal {
            let mut terminal = Terminal::default();
            terminal.add(&seen);
            terminal.seen()?
        } else {
            terminal::text(&seen)
        };
        Ok(Transcript { command, screen, exit: HUNG_UP })
    }

    async fn follow(mut self) -> Result<(String, i64)> {
        if !self.shell.is_empty() {
            self.words = in_shell(&format!("{}\nexec \"$@\"", self.shell), [], &self.words);
        }
        match self.dialogue.take() {
            Some(dialogue) => self.follow_at_terminal(dialogue).await,
            None => self.follow_without_terminal().await,
        }
    }

    async fn follow_without_terminal(mut self) -> Result<(String, i64)> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            let mut exec = self.start(in_shell(WITHOUT_TERMINAL, [], &self.words), false).await?;
            let mut printed = Vec::new();
            while let Some(bytes) = exec.next(&mut self.live).await? {
                printed.extend(bytes);
            }
            let (printed, exit) = (terminal::text(&printed), exec.exit_code().await?);
            let was_started = !printed.starts_with(NOT_STARTED);
            if was_started || attempts.next().is_none() {
                return Ok((printed, exit));
            }
        }
    }

    async fn follow_at_terminal(mut self, mut dialogue: Dialogue) -> Result<(String, i64)> {
        self.environment.push(format!("TERM={}", terminal::NAME));
        let mut words = self.words.clone();
        let holder = dialogue.iter().any(|(_, action)| matches!(action, TerminalAction::HangUp)).then(holder);
        if let Some(holder) = &holder {
            let command = shlex::try_join(words.iter().map(String::as_str))?;
            words = in_shell(GOING_AWAY, [holder.clone(), command], &[]);
        }
        let size = [terminal::ROWS.to_string(), terminal::COLUMNS.to_string()];
        let mut exec = self.start(in_shell(AT_TERMINAL, size, &words), true).await?;
        let mut terminal = Terminal::default();
        // How much of what was printed has been answered.
        let mut answered = 0;
        let mut hung_up = false;
        while let Some(bytes) = exec.next(&mut self.live).await? {
            terminal.add(&bytes);
            while let Some((prompt, _)) = dialogue.front()
                && let Some(at) = terminal.printed()[answered..].find(prompt.as_str())
                && let Some((prompt, action)) = dialogue.pop_front()
            {
                // After another command the prompt is still to be answered.
                if !matches!(action, TerminalAction::Run(_)) {
                    answered += at + prompt.len();
                }
                match (action, &holder) {
                    (TerminalAction::Run(command), _) => {
                        let words = ["sh", "-c", &command].map(str::to_owned).to_vec();
                        Self::new(self.machine, &[]).start(words, false).await?.exit_code().await?;
                    }
                    (TerminalAction::Type(answer), _) => exec.send(&answer).await?,
                    (TerminalAction::HangUp, Some(holder)) => {
                        hung_up = true;
                        let kill = in_shell("kill -KILL $(cat \"$1\"); rm \"$1\"", [holder.clone()], &[]);
                        let killed = Self::new(self.machine, &[]).start(kill, false).await?.exit_code().await?;
                        ensure!(killed == 0, "the terminal does not go away");
                    }
                    (TerminalAction::HangUp, None) => bail!("no process holds the terminal"),
                }
            }
        }
        if let Some((prompt, _)) = dialogue.front() {
            bail!("{prompt:?} was not printed; the screen was:\n{}", terminal.seen()?);
        }
        let exit = exec.exit_code().await?;
        Ok((terminal.seen()?, if hung_up { HUNG_UP } else { exit }))
    }

    async fn start(&self, words: Vec<String>, tty: bool) -> Result<Exec> {
        let docker = self.machine.docker.clone();
        let options = CreateExecOptions {
            attach_stdin: Some(tty),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(tty),
            env: Some(self.environment.clone()),
            cmd: Some(words),
            user: self.user.clone(),
            ..CreateExecOptions::default()
        };
        let id = docker.create_exec(self.machine.id()?, options).await?.id;
        let start = StartExecOptions { tty, ..StartExecOptions::default() };
        match docker.start_exec(&id, Some(start)).await? {
            StartExecResults::Attached { output, input } => Ok(Exec { docker, id, output, input }),
            StartExecResults::Detached => bail!("the engine does not let us see the screen"),
        }
    }
}

/// A script for the shell, which gets `first` and then `rest` as its arguments.
fn in_shell<const N: usize>(script: &str, first: [String; N], rest: &[String]) -> Vec<String> {
    let shell = ["sh", "-c", script, "sh"].map(str::to_owned);
    shell.into_iter().chain(first).chain(rest.iter().cloned()).collect()
}

/// The file on the machine, in memory, in which the process that holds a terminal is written down.
fn holder() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("/tmp/terminal.{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// What runs on a machine.
struct Exec {
    docker: Docker,
    id: String,
    output: Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>,
    input: Pin<Box<dyn AsyncWrite + Send>>,
}

impl Exec {
    /// What it prints next, copied to `live`; `None` at its end.
    async fn next(&mut self, live: &mut Option<&mut dyn Write>) -> Result<Option<Vec<u8>>> {
        let Some(piece) = self.output.next().await else { return Ok(None) };
        let bytes = piece?.into_bytes();
        if let Some(live) = live {
            live.write_all(&bytes)?;
            live.flush()?;
        }
        Ok(Some(bytes.to_vec()))
    }

    async fn send(&mut self, typed: &str) -> Result<()> {
        self.input.write_all(typed.as_bytes()).await?;
        Ok(self.input.flush().await?)
    }

    /// Waits for its end. The engine closes the stream a moment before it knows the exit code.
    async fn exit_code(&self) -> Result<i64> {
        loop {
            let state = self.docker.inspect_exec(&self.id).await?;
            if let (Some(false), Some(code)) = (state.running, state.exit_code) {
                return Ok(code);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
