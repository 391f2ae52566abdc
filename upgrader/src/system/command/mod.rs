//! Runs external programs. Nothing else in the upgrader starts a process.

mod follow;
mod groups;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

pub(crate) use self::follow::Said;
use self::follow::{Deadline, Ended, Lines, follow};
pub(crate) use self::groups::end_all;
use crate::exit::Failure;
use crate::files;

/// The search path of every program; the caller's is ignored.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of the caller that are passed on: the proxies of apt, and the directory of temporary files.
const PASSED_ON: [&str; 6] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy", "TMPDIR"];

/// How much a query may print, and how much of its errors is kept, in bytes.
const MOST_OUTPUT: [usize; 2] = [64 << 20, 64 << 10];

/// How many of its last lines a failed program's error quotes.
const TAIL: usize = 5;

/// Starts a program in a session of its own (setsid(1) of util-linux, which is essential). The program keeps the pid. Only what has a
/// terminal needs it: the worker, a systemd unit, has none to share.
const SETSID: &str = "/usr/bin/setsid";

/// How long a query may take. The slowest, `apt-get --simulate` on a small machine, takes a minute.
const QUERY_LIMIT: Duration = Duration::from_secs(5 * 60);

/// One external program about to run: fixed environment, no stdin, a session and a process group of its own. So it has no controlling
/// terminal: a program of another user could otherwise type commands into root's shell (`TIOCSTI` of `ioctl_tty(2)`).
///
/// `LC_ALL` is always `C.UTF-8`, so that the output of programs can be parsed.
#[derive(Debug)]
pub(crate) struct Program {
    /// The program and its arguments as errors show them.
    shown: String,
    command: Command,
    time_limit: Option<Duration>,
    /// The pipe for progress reports: our end, and the program's until it has started.
    status: Option<PipeReader>,
    status_writer: Option<PipeWriter>,
}

/// A program that ran and failed.
#[derive(Debug)]
pub(crate) struct Failed {
    program: String,
    /// The reason, worded to follow "failed": `(exit status: 1): no such file`.
    pub(crate) how: String,
    /// Its exit code, unless a signal or the time limit ended it.
    pub(crate) code: Option<i32>,
    /// True if its time limit ended it.
    pub(crate) timed_out: bool,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed {}", self.program, self.how)
    }
}

impl std::error::Error for Failed {}

/// The variables of the caller that are passed on. A directory in which another user could replace the temporary files of root is not.
pub(crate) fn passed_on() -> impl Iterator<Item = (&'static str, OsString)> {
    let values = PASSED_ON.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    values.filter(|(name, value)| *name != "TMPDIR" || files::can_hold_temporaries(Path::new(value)))
}

/// True if this process has a controlling terminal, which its children would share.
fn has_terminal() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| open("/dev/tty", OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).is_ok())
}

impl Program {
    /// A program by its name in [`PATH`] or by its path.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that makes commands")]
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        let mut command = if has_terminal() {
            let mut setsid = Command::new(SETSID);
            setsid.arg("--").arg(program);
            setsid
        } else {
            let mut command = Command::new(program);
            command.process_group(0);
            command
        };
        command.env_clear().stdin(Stdio::null()).current_dir("/");
        command.env("PATH", PATH).env("LC_ALL", "C.UTF-8").env("HOME", "/root");
        for (name, value) in passed_on() {
            command.env(name, value);
        }
        Self {
            shown: program.to_string_lossy().into_owned(),
            command,
            time_limit: None,
            status: None,
            status_writer: None,
        }
    }

    /// A program and its arguments, as settings have them.
    ///
    /// # Errors
    /// If another user than root can change the program.
    pub(crate) fn of_settings(words: &[String]) -> Result<Self> {
        let (program, arguments) = words.split_first().map_or(("", &[][..]), |(first, rest)| (first, rest));
        files::trusted(Path::new(program))?;
        Ok(Self::new(program).args(arguments))
    }

    /// A program that `starter` starts with this verb. Errors show the program alone.
    pub(crate) fn behind(starter: &Path, verb: &str, program: &str) -> Self {
        let mut behind = Self::new(starter).setting(verb).setting(program);
        program.clone_into(&mut behind.shown);
        behind
    }

    /// One more argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&argument.as_ref().to_string_lossy());
        self.command.arg(argument);
        self
    }

    /// Adds a constant argument, which errors do not show.
    pub(crate) fn setting(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// More arguments.
    pub(crate) fn args(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Adds constant arguments.
    pub(crate) fn settings(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        arguments.into_iter().fold(self, Self::setting)
    }

    /// One more environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets a time limit. At the limit the whole process group is ended, which is an error.
    pub(crate) fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Runs a query, and returns its stdout. Without a time limit of its own it gets [`QUERY_LIMIT`].
    pub(crate) fn output(self) -> Result<String> {
        self.query(true, None)
    }

    /// Runs a query that may fail for some of its arguments, and returns its stdout for the others.
    pub(crate) fn stdout(self) -> Result<String> {
        self.query(false, None)
    }

    fn query(mut self, must_succeed: bool, file: Option<File>) -> Result<String> {
        let (reader, writer) = std::io::pipe().context("no pipe")?;
        let (errors, error_writer) = std::io::pipe().context("no pipe")?;
        self.command.stderr(error_writer);
        let mut deadline = Deadline::after(self.time_limit.unwrap_or(QUERY_LIMIT));
        if let Some(file) = file {
            deadline.growing = Some((file.try_clone().context("no output")?, 0));
            self.command.stdout(file);
        } else {
            self.command.stdout(writer);
        }
        let mut said = [Vec::new(), Vec::new()];
        let mut too_much = false;
        let ended = self.run([Some(reader), Some(errors)], Some(deadline), &mut |pipe, bytes| {
            if let Some(said) = said.get_mut(pipe) {
                if said.len() + bytes.len() <= MOST_OUTPUT[pipe] {
                    said.extend_from_slice(bytes);
                } else {
                    too_much |= pipe == 0;
                }
            }
            false
        })?;
        if too_much {
            anyhow::bail!("{} printed more than {} MB", self.shown, MOST_OUTPUT[0] >> 20);
        }
        let [stdout, stderr] = said.map(|said| String::from_utf8_lossy(&said).into_owned());
        match ended {
            Ended::Status(status) if must_succeed && !status.success() => Err(self.failed(status, stderr.lines())),
            Ended::Status(_) => Ok(stdout),
            Ended::TimedOut(limit) => Err(self.timed_out(limit).context(
                Failure::new("a program does not answer")
                    .remedy("Run it by hand to see what it waits for (a lock, a disk, a network), then start again."),
            )),
        }
    }

    /// The same with these arguments. Runs nothing without any.
    pub(crate) fn stdout_for(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        let mut arguments = arguments.into_iter().peekable();
        if arguments.peek().is_none() {
            return Ok(String::new());
        }
        self.args(arguments).stdout()
    }

    /// Runs a program with its stdout in a file. The time limit of a query starts again while the file grows.
    pub(crate) fn into_file(self, file: File) -> Result<()> {
        self.query(true, Some(file)).map(drop)
    }

    /// Takes the program's stdin from a file.
    pub(crate) fn stdin(mut self, file: File) -> Self {
        self.command.stdin(file);
        self
    }

    /// Runs a query whose result is its exit status. Without an answer in time it is false.
    pub(crate) fn succeeds(mut self) -> Result<bool> {
        self.time_limit.get_or_insert(QUERY_LIMIT);
        Ok(matches!(self.run_lines(&mut |_| false)?, Ended::Status(status) if status.success()))
    }

    /// Runs a program and hands over each line it prints, stdout and stderr in the order they were written.
    ///
    /// # Errors
    /// If it could not be started, did not exit with 0, or took longer than its time limit. The error quotes its last lines.
    pub(crate) fn lines(self, line: &mut dyn FnMut(&str)) -> Result<()> {
        self.follow_lines(&mut |said| {
            if let Said::Line(text) = said {
                line(text);
            }
            false
        })
    }

    fn follow_lines(mut self, said: &mut dyn FnMut(Said<'_>) -> bool) -> Result<()> {
        let mut tail: Vec<String> = Vec::new();
        let ended = self.run_lines(&mut |news| {
            if let Said::Line(text) = news
                && !text.trim().is_empty()
            {
                if tail.len() < TAIL {
                    tail.push(String::new());
                } else {
                    // A program that prints millions of lines does not allocate memory for each.
                    tail.rotate_left(1);
                }
                if let Some(last) = tail.last_mut() {
                    text.clone_into(last);
                }
            }
            said(news)
        })?;
        match ended {
            Ended::Status(status) if status.success() => Ok(()),
            Ended::Status(status) => Err(self.failed(status, tail.iter().map(String::as_str))),
            Ended::TimedOut(limit) => Err(self.timed_out(limit)),
        }
    }

    fn timed_out(self, limit: Duration) -> anyhow::Error {
        let how = format!("(killed after {limit:?}, its time limit)");
        Failed { program: self.shown, how, code: None, timed_out: true }.into()
    }

    /// Starts a program and does not wait for it. Its output goes to a file.
    pub(crate) fn spawn(mut self, stdin: File, output: File) -> Result<Child> {
        let stdout = output.try_clone().context("no output")?;
        self.command.stdin(stdin).stdout(stdout).stderr(output);
        self.check().and_then(|()| self.command.spawn()).with_context(|| self.not_started())
    }

    /// The same for a program that also reports on its progress, to a file descriptor that this option names. The
    /// callback returns true for progress: then the time limit starts again.
    ///
    /// # Errors
    /// As for [`Program::lines`].
    pub(crate) fn lines_and_status(mut self, option: &str, said: &mut dyn FnMut(Said<'_>) -> bool) -> Result<()> {
        let (reader, writer) = std::io::pipe().context("no pipe")?;
        // The child inherits the descriptor under the same number.
        fcntl_setfd(&writer, FdFlags::empty()).context("no pipe")?;
        self.command.arg(format!("{option}{}", writer.as_raw_fd()));
        self.status = Some(reader);
        self.status_writer = Some(writer);
        self.follow_lines(said)
    }

    /// Runs a program with a text as its stdin, and returns its stdout.
    ///
    /// # Errors
    /// As for [`Program::lines`]. That it does not read its stdin is none.
    pub(crate) fn feed(mut self, text: &str, line: &mut dyn FnMut(&str)) -> Result<()> {
        let (reader, mut writer) = std::io::pipe().context("no pipe")?;
        self.command.stdin(reader);
        let text = text.to_owned();
        // A pipe holds little: another thread has to fill it while this one reads.
        std::thread::spawn(move || writer.write_all(text.as_bytes()));
        self.lines(line)
    }

    /// Replaces this process by another program, with the environment and the stdin it has and these variables. Returns only
    /// the error.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that makes commands")]
    pub(crate) fn become_program(
        program: &Path,
        arguments: impl Iterator<Item = OsString>,
        variables: impl IntoIterator<Item = (&'static str, OsString)>,
    ) -> std::io::Error {
        Command::new(program).args(arguments).envs(variables).exec()
    }

    /// Runs a program whose stdout and stderr are one stream of lines, and which may report on its progress.
    fn run_lines(&mut self, said: &mut dyn FnMut(Said<'_>) -> bool) -> Result<Ended> {
        let (reader, writer) = std::io::pipe().context("no pipe")?;
        self.command.stdout(writer.try_clone().context("no pipe")?).stderr(writer);
        let (mut lines, mut progress) = (Lines::default(), Lines::default());
        let deadline = self.time_limit.map(Deadline::after);
        let status = self.status.take();
        let ended = self.run([Some(reader), status], deadline, &mut |pipe, bytes| {
            let mut gets_on = false;
            if pipe == 0 {
                lines.add(bytes, &mut |line| gets_on |= said(Said::Line(line)));
            } else {
                progress.add(bytes, &mut |line| gets_on |= said(Said::Status(line)));
            }
            gets_on
        });
        lines.finish(&mut |line| {
            said(Said::Line(line));
        });
        ended
    }

    /// Runs a program, and hands over what comes from these pipes.
    fn run(
        &mut self,
        pipes: [Option<PipeReader>; 2],
        deadline: Option<Deadline>,
        received: &mut dyn FnMut(usize, &[u8]) -> bool,
    ) -> Result<Ended> {
        let started = self.check().and_then(|()| groups::start(&mut self.command));
        let mut child = started.with_context(|| self.not_started())?;
        // The command keeps our copies of the pipes' writing ends; the end of a pipe is only seen without them.
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        self.status_writer = None;
        let ended = follow(&mut child, pipes, deadline, received);
        if ended.is_err() {
            let _ = groups::end_group(&mut child);
        }
        groups::forget(&child);
        ended.with_context(|| format!("could not follow {}", self.shown))
    }

    /// Fails as execvp(3) would if the program is not there or cannot be executed: [`SETSID`] would say so on its stderr only.
    fn check(&self) -> std::io::Result<()> {
        if self.command.get_program() != SETSID {
            return Ok(());
        }
        let program = Path::new(self.command.get_args().nth(1).unwrap_or_default());
        let is_path = program.components().nth(1).is_some();
        let mut error = Errno::NOENT;
        for directory in if is_path { "" } else { PATH }.split(':') {
            match files::metadata(Path::new(directory).join(program)) {
                Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => return Ok(()),
                Ok(_) => error = Errno::ACCESS,
                Err(other) if is_path => return Err(other),
                Err(_) => {}
            }
        }
        Err(error.into())
    }

    fn not_started(&self) -> String {
        format!("{} could not be started", self.shown)
    }

    fn failed<'a>(&self, status: ExitStatus, last_lines: impl DoubleEndedIterator<Item = &'a str>) -> anyhow::Error {
        let mut lines: Vec<&str> = last_lines.filter(|text| !text.trim().is_empty()).rev().take(TAIL).collect();
        lines.reverse();
        let said = if lines.is_empty() { String::from("it printed nothing") } else { lines.join(" / ") };
        let how = format!("({status}): {said}");
        Failed { program: self.shown.clone(), how, code: status.code(), timed_out: false }.into()
    }
}

#[cfg(test)]
mod tests;
