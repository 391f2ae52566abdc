//! The command line: parses the options, frames a run and turns its result into the exit code.

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _};
use jiff::Timestamp;
use rustix::fs::Mode;

use crate::config::settings::Config;
use crate::context::{Context, Options, Verb, print_json};
use crate::exit::{Exit, Failure, Stopped, code_of, complain as complain_of, describe, remedy_of};
use crate::files;
use crate::model::event::Event;
use crate::model::events::Events;
use crate::output::session;
use crate::paths::Paths;
use crate::system::filesystems;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or nothing to do
  1  failed; no package was changed
  2  wrong command line
  3  the question was not answered with yes; nothing was changed
  4  failed, and rolled back
  5  failed, and needs a human; the remedy is printed
  6  done, but something needs attention
  7  another run is under way, or Ctrl-C detached this one";

/// The command line of the program with this name, for parsing it and for its man page.
#[must_use]
pub fn command(program: String) -> clap::Command {
    Options::command().after_long_help(EXIT_CODES).name(program.clone()).bin_name(program)
}

/// Runs either program: parses the command line, requires root, calls `work`, and turns its result into the exit code.
pub fn main(work: impl FnOnce(&Context<'_>, &mut Events<'_>) -> Result<Exit, Stopped>) -> ExitCode {
    // Nobody else may write to what is made here, whatever the caller's mask is.
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    let paths = match Paths::of_this_program() {
        Ok(paths) => paths,
        Err(error) => return complain(&error, Exit::Unchanged).into(),
    };
    let options =
        match command(paths.package()).try_get_matches().and_then(|matches| Options::from_arg_matches(&matches)) {
            Ok(options) => options,
            Err(error) => {
                let _ = error.print();
                return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
            }
        };
    if !rustix::process::geteuid().is_root() && !matches!(options.verb, Some(Verb::Status { .. })) {
        let failure = only_root(&options, &paths.package(), std::env::args().skip(1));
        return complain(&failure.into(), Exit::Unchanged).into();
    }
    if !matches!(options.verb, Some(Verb::Status { .. }))
        && let Err(failure) = own_files(&paths)
    {
        return complain(&failure.into(), Exit::Unchanged).into();
    }
    match Config::read(&paths.config()) {
        Ok(config) => frame(&Context { paths: &paths, options: &options, config: &config }, work).into(),
        Err(error) => complain(&error, Exit::Unchanged).into(),
    }
}

/// Makes sure that only root can write where the upgrader reads what it does: its settings, the product's description, its own state.
fn own_files(paths: &Paths) -> Result<(), Failure> {
    let all = [paths.config(), paths.product(), paths.state()];
    all.iter().try_for_each(|path| path.parent().map_or(Ok(()), files::own).and_then(|()| files::own(path)))?;
    // Older versions let others read it.
    let _ = files::make_private(&paths.state());
    Ok(())
}

/// The failure of a program that is not run by root. Its remedy repeats the arguments: without them, the program upgrades.
fn only_root(options: &Options, program: &str, arguments: impl Iterator<Item = String>) -> Failure {
    let what = if matches!(options.verb, Some(Verb::History)) { "read the history of" } else { "upgrade" };
    let typed = std::iter::once(program.to_owned()).chain(arguments).collect::<Vec<_>>().join(" ");
    Failure::new(format!("only root can {what} this machine")).remedy(format!("Run it as root: sudo {typed}"))
}

fn frame(context: &Context<'_>, work: impl FnOnce(&Context<'_>, &mut Events<'_>) -> Result<Exit, Stopped>) -> Exit {
    let options = context.options;
    let mut events = Events::default();
    let exit = match work(context, &mut events) {
        Ok(exit) => exit,
        Err(Stopped { error, exit }) => {
            let error = with_remedy(error, exit, context.paths);
            events.emit(Event::Failed(describe(&error)));
            let exit = if options.works() { code_of(&error, exit) } else { complain(&error, exit) };
            events.emit(Event::Finished { exit, time: Timestamp::now(), message: String::new() });
            exit
        }
    };
    // A run without questions may have failed without an admin at the terminal.
    let unseen = options.yes && matches!(exit, Exit::Unchanged | Exit::RolledBack | Exit::NeedsHuman);
    if events.are_recorded() && (events.report().detached || unseen) {
        session::end(context, &mut events);
    }
    if options.json && !options.works() && !options.only_reads() {
        print_json(events.report());
    }
    exit
}

/// The same error with something to do about it, if it is one of a disk or needs a human.
fn with_remedy(error: anyhow::Error, exit: Exit, paths: &Paths) -> anyhow::Error {
    let (exit, command) = (code_of(&error, exit), paths.package());
    let remedy = if remedy_of(&error).is_some() {
        return error;
    } else if filesystems::is_of_disk(&error) {
        format!(
            "`dmesg` shows the errors of a disk, `df` and `df -i` its space. See to that, then start {command} again."
        )
    } else if exit == Exit::NeedsHuman {
        format!("See {} and fix this error, then start {command} again.", paths.log().display())
    } else {
        return error;
    };
    Failure::new(format!("{error:#}")).remedy(remedy).exit(exit).into()
}

/// Prints an error to stderr and returns its exit code.
fn complain(error: &anyhow::Error, otherwise: Exit) -> Exit {
    complain_of(&describe(error));
    code_of(error, otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::step::Mode;

    fn parsed(arguments: &[&str]) -> Result<Options, clap::Error> {
        let arguments = std::iter::once("acme-upgrade").chain(arguments.iter().copied());
        Options::from_arg_matches(&command("acme-upgrade".to_owned()).try_get_matches_from(arguments)?)
    }

    #[test]
    fn the_mode_follows_from_the_options() {
        assert_eq!(parsed(&[]).expect("good").mode(), Mode::Upgrade);
        assert_eq!(parsed(&["-d"]).expect("good").mode(), Mode::DownloadOnly);
        assert_eq!(parsed(&["--dry-run", "-f"]).expect("good").mode(), Mode::DryRun);
        assert!(parsed(&["-d", "--dry-run"]).is_err(), "these contradict each other");
        assert!(parsed(&["rollback", "--yes"]).expect("good").yes, "a rollback can be confirmed in advance, too");
    }

    #[test]
    fn an_error_of_a_disk_and_one_that_needs_a_human_say_what_to_do() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        let shown = |error, exit| describe(&with_remedy(error, exit, &paths));
        let disk = || anyhow::anyhow!("/etc/a: Read-only file system (os error 30)");
        assert!(shown(disk(), Exit::Unchanged).ends_with("See to that, then start acme-upgrade again."));
        assert_eq!(code_of(&with_remedy(disk(), Exit::NeedsHuman, &paths), Exit::Unchanged), Exit::NeedsHuman);
        assert!(shown(anyhow::anyhow!("odd"), Exit::NeedsHuman).contains("odd\nWhat to do: See "));
        assert_eq!(shown(anyhow::anyhow!("odd"), Exit::Unchanged), "error: odd");
        let own = Failure::new("/a: Input/output error").remedy("Its own.");
        assert!(shown(own.into(), Exit::NeedsHuman).ends_with("What to do: Its own."));
    }

    #[test]
    fn without_root_the_remedy_is_the_command_as_it_was_typed() {
        let options = parsed(&["history"]).expect("good");
        let failure = only_root(&options, "acme-upgrade", std::iter::once("history".to_owned()));
        assert!(describe(&failure.into()).ends_with("Run it as root: sudo acme-upgrade history"));
    }

    #[test]
    fn the_admin_guide_has_a_section_for_each_exit_code() {
        let known: Vec<String> = EXIT_CODES.lines().skip(1).map(|line| line.trim().replacen("  ", ": ", 1)).collect();
        let codes: Vec<u8> = (0..=u8::MAX).filter(|code| Exit::try_from(*code).is_ok()).collect();
        assert_eq!(known.len(), codes.len());
        for (line, code) in known.iter().zip(codes) {
            assert!(line.starts_with(&format!("{code}: ")), "{line}");
        }
        assert_eq!(documented::Page::read("docs/admin.md").section("## Exit codes").headings(3), known);
    }

    #[test]
    fn the_help_names_the_program_of_the_product() {
        let help = command("acme-upgrade".to_owned()).render_long_help().to_string();
        insta::assert_snapshot!(help.trim_end().strip_suffix(EXIT_CODES).expect("exit codes at the end"), @r#"
        Upgrade the product on this machine, and restart its services in the right order.

        Refreshes the package lists and updates itself first. Then checks the machine, shows the installed version, the candidate version and all changes, and asks once. After that it continues in the background, even without the terminal: runs the pre-upgrade hooks, upgrades the packages, runs the post-upgrade hooks and restarts the services in order.

        Usage: acme-upgrade [OPTIONS]
               acme-upgrade <COMMAND>

        Commands:
          attach    Follow the upgrade that is under way; Ctrl-C only detaches
          status    Show the installed version, the result of the last run, and what needs a restart
          history   List the past runs, the newest first
          rollback  Roll back the last upgrade, or the interrupted one

        Options:
          -d, --download-only
                  Download the packages of the upgrade and stop, without a question; only this program is upgraded

          -f, --yes
                  Upgrade without asking

              --dry-run
                  Show what would change and stop; this program is not upgraded either

              --ignore-peer
                  Upgrade this node of a pair regardless of the version and the role of the other node

          -v, --verbose
                  Show each line that apt and the hooks print

          -q, --quiet
                  Show only the question, the result and what needs attention

              --json
                  Print the report as one JSON document at the end; everything else goes to stderr

          -h, --help
                  Print help (see a summary with '-h')

          -V, --version
                  Print version
        "#);
    }
}
