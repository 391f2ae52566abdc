//! Runs external programs. Nothing else in the upgrader starts a process.

mod follow;
mod groups;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::{FdFlags, fcntl_setfd};

pub(crate) use self::follow::Said;
use self::follow::{Ended, follow};
pub(crate) use self::groups::end_all;
use crate::system::files;

/// The search path of every program; the caller's is ignored.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of the caller that are passed on: the proxies of apt, and the directory of temporary files.
pub(crate) const PASSED_ON: [&str; 6] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy", "TMPDIR"];

/// How many of its last lines a failed program's error quotes.
const TAIL: usize = 5;

/// One external program about to run: fixed environment, no stdin, a process group of its own.
///
/// `LC_ALL` is always `C.UTF-8`, so that the output of programs can be parsed.
#[derive(Debug)]
pub(crate) struct Program {
    /// The program and its arguments as errors show them.
    shown: String,
    command: Command,
    time_limit: Option<Duration>,
    /// The file descriptor for progress reports.
    status: Option<(PipeReader, PipeWriter)>,
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

impl Program {
    /// A program by its name in [`PATH`] or by its path.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that makes commands")]
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        let mut command = Command::new(program);
        command.env_clear().stdin(Stdio::null()).process_group(0).current_dir("/");
        command.env("PATH", PATH).env("LC_ALL", "C.UTF-8").env("HOME", "/root");
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        Self { shown: program.to_string_lossy().into_owned(), command, time_limit: None, status: None }
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

    /// Runs a query, and returns its stdout. There is no time limit.
    pub(crate) fn output(mut self) -> Result<String> {
        let output = self.command.output().with_context(|| self.not_started())?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(self.failed(output.status, stderr.lines()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a query that may fail for some of its arguments, and returns its stdout for the others.
    pub(crate) fn stdout(mut self) -> Result<String> {
        let output = self.command.output().with_context(|| self.not_started())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same with these arguments. Runs nothing without any.
    pub(crate) fn stdout_for(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        let mut arguments = arguments.into_iter().peekable();
        if arguments.peek().is_none() {
            return Ok(String::new());
        }
        self.args(arguments).stdout()
    }

    /// Runs a program with its stdout in a file. There is no time limit.
    pub(crate) fn into_file(mut self, file: File) -> Result<()> {
        self.command.stdout(file);
        self.output().map(drop)
    }

    /// Takes the program's stdin from a file.
    pub(crate) fn stdin(mut self, file: File) -> Self {
        self.command.stdin(file);
        self
    }

    /// Runs a query whose result is its exit status.
    pub(crate) fn succeeds(mut self) -> Result<bool> {
        Ok(matches!(self.run(&mut |_| false)?, Ended::Status(status) if status.success()))
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
        let ended = self.run(&mut |news| {
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
            Ended::TimedOut(limit) => {
                let how = format!("(killed after {limit:?}, its time limit)");
                Err(Failed { program: self.shown, how, code: None, timed_out: true }.into())
            }
        }
    }

    /// Starts a program and does not wait for it. Its output goes to a file.
    pub(crate) fn spawn(mut self, stdin: File, output: File) -> Result<Child> {
        let stdout = output.try_clone().context("no output")?;
        self.command.stdin(stdin).stdout(stdout).stderr(output);
        self.command.spawn().with_context(|| self.not_started())
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
        self.status = Some((reader, writer));
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

    fn run(&mut self, said: &mut dyn FnMut(Said<'_>) -> bool) -> Result<Ended> {
        let (reader, writer) = std::io::pipe().context("no pipe")?;
        self.command.stdout(writer.try_clone().context("no pipe")?).stderr(writer);
        let started = Instant::now();
        let mut child = groups::start(&mut self.command).with_context(|| self.not_started())?;
        // The command keeps our copies of the pipe's writing end; the end of the pipe is only seen without them.
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        let deadline = self.time_limit.map(|limit| (started + limit, limit));
        // Of the other pipe, the writing end is ours to close.
        let status = self.status.take().map(|(reader, _)| reader);
        let ended = follow(&mut child, reader, status, deadline, said);
        if ended.is_err() {
            let _ = groups::end_group(&mut child);
        }
        groups::forget(&child);
        ended.with_context(|| format!("could not follow {}", self.shown))
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
mod tests {
    use std::io::Read as _;

    use super::*;

    fn sh(script: &str) -> Program {
        Program::new("sh").args(["-c", script])
    }

    fn lines_of(program: Program) -> (Vec<String>, Result<()>) {
        let mut lines = Vec::new();
        let result = program.lines(&mut |line| lines.push(line.to_owned()));
        (lines, result)
    }

    #[test]
    fn lines_come_in_the_order_they_were_written_whatever_the_stream() {
        let (lines, result) = lines_of(sh("echo one; echo two >&2; printf three"));
        assert_eq!(lines, ["one", "two", "three"]);
        assert!(result.is_ok());
    }

    #[test]
    fn a_failure_names_program_arguments_status_and_last_words() {
        let (_, result) = lines_of(sh("echo first; echo broken >&2; exit 3"));
        let error = format!("{:#}", result.expect_err("exit 3 is a failure"));
        assert_eq!(error, "sh -c echo first; echo broken >&2; exit 3 failed (exit status: 3): first / broken");
    }

    #[test]
    fn what_is_printed_into_a_file_is_not_mixed_with_complaints() {
        let (mut file, writer) =
            (tempfile::tempfile().expect("a file"), |file: &File| file.try_clone().expect("a file"));
        sh("echo warning >&2; echo dump").into_file(writer(&file)).expect("it exits with 0");
        let error = sh("echo more; echo full >&2; exit 1").into_file(writer(&file)).expect_err("exit 1 is a failure");
        assert!(error.to_string().ends_with("failed (exit status: 1): full"), "{error}");
        let mut text = String::new();
        std::io::Seek::rewind(&mut file).expect("rewound");
        file.read_to_string(&mut text).expect("readable");
        assert_eq!(text, "dump\nmore\n");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Program::new("no-such-program").output().expect_err("it is not there");
        assert!(format!("{error:#}").starts_with("no-such-program could not be started"), "{error:#}");
    }

    #[test]
    fn a_background_child_that_keeps_the_output_open_does_not_hold_us_up() {
        let started = Instant::now();
        let (lines, result) = lines_of(sh("sleep 30 & echo gone"));
        assert_eq!(lines, ["gone"]);
        assert!(result.is_ok());
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_background_child_that_floods_the_output_does_not_hold_us_up() {
        let started = Instant::now();
        let (_, result) = lines_of(sh("timeout 30 yes & echo gone"));
        assert!(result.is_ok());
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn after_its_time_limit_the_whole_group_is_killed() {
        let (lines, result) = lines_of(sh("sleep 300 & echo $!; wait").time_limit(Duration::from_millis(100)));
        let error = format!("{:#}", result.expect_err("it takes too long"));
        assert!(error.contains("failed (killed after 100ms, its time limit)"), "{error}");
        // It may remain as a zombie until its new parent reaps it.
        let alive = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", lines[0])).unwrap_or_default();
            status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while alive() {
            assert!(Instant::now() < deadline, "the background process survived");
            std::thread::yield_now();
        }
    }

    #[test]
    fn bytes_that_are_no_text_and_endless_lines_do_no_harm() {
        let (lines, result) = lines_of(sh(r"printf '\377\n'; head -c 200000 /dev/zero"));
        assert!(result.is_ok());
        assert_eq!(lines[0], "\u{fffd}");
        assert!(lines.len() > 2);
    }

    #[test]
    fn the_environment_is_the_fixed_one() {
        let environment = Program::new("env").env("EXTRA", "1").output().expect("env runs");
        assert!(environment.contains("LC_ALL=C.UTF-8\n") && environment.contains("EXTRA=1\n"));
        assert!(!environment.contains("CARGO"), "the caller's environment leaks: {environment}");
    }
}
