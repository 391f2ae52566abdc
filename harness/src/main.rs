//! The harness on the command line: prepares this host, builds the package, shows an upgrade.

use std::io::{self, ErrorKind, Write as _, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use harness::at_once::all;
use harness::bench;
use harness::command;
use harness::data::tree;
use harness::demo;
use harness::faults::{attack, crash, failing_disk, fault, power};
use harness::gate;
use harness::machines::engine::Engine;
use harness::machines::image::{self, Debian};
use harness::machines::isolation;
use harness::machines::lab;
use harness::machines::lintian;
use harness::matrix::{catalogue, explore};
use harness::packages::binaries;
use harness::packages::shipped::vendor;
use harness::report;
use upgrader::model::step::Step;

/// Boot Debian machines, upgrade them, and see what happens.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Prepare this host: an engine that answers (installed from Debian if there is none) and the machines' images
    ///
    /// Prints the value that `DOCKER_HOST` needs; empty where it needs none.
    Setup,
    /// List the cells of the matrix
    List {
        /// Only those that have this in their names
        part: Option<String>,
        /// Only those that are part of `make test`
        #[arg(long)]
        chosen: bool,
    },
    /// Explain what a cell of the matrix does
    Explain {
        /// Its name, or a part of it that no other has
        name: String,
    },
    /// Run a cell of the matrix, and print its record
    Run {
        /// Its name, or a part of it that no other has
        name: String,
        /// Keep its machine until Enter is pressed
        #[arg(long)]
        keep: bool,
    },
    /// Get a shell on the machine of a cell, in the middle of a run
    Shell {
        /// Its name, or a part of it that no other has
        name: String,
        /// Stop the run in this step, where faults are injected; without it the run is not yet started
        #[arg(long, value_name = "STEP", value_parser = step)]
        at: Option<Step>,
        /// Stop it after that step: in the next one in which it can be stopped
        #[arg(long, requires = "at")]
        after: bool,
    },
    /// Upgrade machines to releases with known defects; fails if a defect is not caught
    Defects {
        /// Only those that have this in their names
        part: Option<String>,
    },
    /// Build the upgrader as it is shipped, and print the directory of its programs
    Binaries,
    /// Build the upgrader's Debian package, for XiVO or for a product of your own: docs/guide.md
    Deb(Box<vendor::DebOptions>),
    /// Watch an upgrade from XiVO 1.2.1 to 1.2.2
    Demo {
        /// On this Debian release
        #[arg(value_enum, default_value = "bookworm")]
        debian: Debian,
    },
    /// Check a Debian package with lintian, on a Debian machine in a container
    Lintian {
        /// The .deb
        file: PathBuf,
    },
    /// Make a report of the matrix after it ran: for people, for CI servers, and as data; fails if a cell failed
    Report {
        /// Where the cells left their records
        #[arg(default_value = "target/matrix/cells")]
        directory: PathBuf,
        #[command(flatten)]
        files: report::ReportFiles,
    },
    /// Upgrade machines from a vendor's old versions to a candidate repository, and say whether that may be released: docs/gate.md
    ///
    /// Exit code: 0 if every upgrade passed, 1 if one did not or could not be tried, 2 for a wrong command line.
    Gate(Box<gate::GateOptions>),
    /// Measure the upgrader and the harness; fails if a limit is exceeded
    ///
    /// The figures are also written to target/bench/results.json.
    Bench {
        /// Only these
        #[arg(value_enum)]
        subjects: Vec<bench::Subject>,
    },
    /// Inject a fault at every point of an upgrade; fails unless each completes or is rolled back
    ///
    /// After each fault the command does what an admin does, then compares the machine path by path with the old and the upgraded one.
    /// The results are also written to target/crash/results.json.
    Crash(crash::CrashOptions),
    /// Cut the power of machines on real filesystems anywhere in an upgrade, and check that it completes or never happened
    ///
    /// What is on the disk at a moment is captured, and a machine boots from it. The results are also written to target/power/results.json.
    Power(power::PowerOptions),
    /// Upgrade and roll back machines whose disk fails, is full or becomes read-only, and check that one run ends it afterwards
    ///
    /// The results are also written to target/failing-disks/results.json.
    FailingDisks(failing_disk::FailingDiskOptions),
    /// Attack upgrades and rollbacks from an unprivileged account; fails if an attack succeeds
    ///
    /// After each attack, nothing of root has changed and one more upgrade succeeds. The results are also written to
    /// target/attacks/results.json.
    Attacks(attack::AttackOptions),
    /// Remove the containers that killed runs have left
    Sweep {
        /// Fail if there are any, after removing them
        #[arg(long)]
        check: bool,
    },
    /// Remove all containers and images of the harness from the engine
    Clean,
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader closed the pipe.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(stderr(), "error: {error:#}");
            if error.is::<gate::WrongCommandLine>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    let mut out = stdout();
    match verb {
        Verb::Setup => writeln!(out, "{}", setup()?)?,
        Verb::List { part, chosen } => explore::list(part.as_deref().unwrap_or_default(), chosen, &mut out)?,
        Verb::Explain { name } => explore::explain(&name, &mut out)?,
        Verb::Run { name, keep } => explore::run(&name, keep, &mut out)?,
        Verb::Shell { name, at, after } => explore::shell(&name, at, after, &mut out)?,
        Verb::Defects { part } => catalogue::run(part.as_deref().unwrap_or_default(), &mut out)?,
        Verb::Binaries => writeln!(out, "{}", binaries::build()?.display())?,
        Verb::Deb(options) => vendor::package(&options, &mut out)?,
        Verb::Demo { debian } => demo::run(debian, &mut out)?,
        Verb::Lintian { file } => lintian::run(&file, &mut out)?,
        Verb::Report { directory, files } => report::run(&directory, &files, &mut out)?,
        Verb::Gate(options) => gate::run(&options, &mut out)?,
        Verb::Bench { subjects } => bench::run(&subjects, &mut out)?,
        Verb::Crash(options) => crash::run(&options, &mut out)?,
        Verb::Power(options) => power::run(&options, &mut out)?,
        Verb::FailingDisks(options) => failing_disk::run(&options, &mut out)?,
        Verb::Attacks(options) => attack::run(&options, &mut out)?,
        Verb::Sweep { check } => {
            let isolated = isolation::engine().map_or(Ok(0), |engine| engine.sweep())?;
            let (containers, disks) = (Engine::connect()?.sweep()? + isolated, lab::sweep()?);
            ensure!(
                !check || containers + disks == 0,
                "{containers} containers and {disks} disks were left behind (they are removed now)"
            );
        }
        Verb::Clean => clean()?,
    }
    Ok(())
}

/// A step as it is written in data.
fn step(text: &str) -> Result<Step> {
    let steps = fault::steps();
    let known = || steps.iter().map(|step| fault::key(*step)).collect::<Vec<_>>().join(", ");
    steps.iter().find(|step| fault::key(**step) == text).copied().with_context(|| format!("the steps are {}", known()))
}

/// Prepares the host and gives the value for `DOCKER_HOST`.
fn setup() -> Result<String> {
    let address = if let Some(address) = Engine::find() {
        address
    } else {
        ensure!(
            std::env::var_os("DOCKER_HOST").is_none(),
            "no engine answers at DOCKER_HOST; unset it to have one installed on this host"
        );
        command::run(&tree("images/install-engine.sh"), [])?;
        Engine::find().context("the engine that was installed does not answer")?
    };
    let engine = if address.is_empty() { Engine::connect()? } else { Engine::at(&address)? };
    let installed = command::run(&tree("images/install-filesystems.sh"), []);
    if let Err(reason) = installed.and_then(|()| lab::is_possible()) {
        say(&format!("disks: tests of real filesystems are not run on this host: {reason:#}"));
    }
    all(Debian::ALL, |debian| image::ensure(&engine, debian, &say))?;
    Ok(address)
}

fn clean() -> Result<()> {
    if let Some(isolated) = isolation::engine() {
        isolated.remove_all()?;
        image::remove_all(&isolated)?;
        isolation::stop()?;
    }
    // Without an engine there is nothing in it.
    let Ok(engine) = Engine::connect() else { return Ok(()) };
    engine.remove_all()?;
    image::remove_all(&engine)
}

/// Reports progress on stderr: stdout is for scripts.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "images: {text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use documented::text;
    use yaml_rust2::{Yaml, YamlLoader};

    use super::*;

    /// Every text in a YAML document.
    fn texts(yaml: &Yaml) -> Vec<String> {
        match yaml {
            Yaml::String(text) => vec![text.clone()],
            Yaml::Array(items) => items.iter().flat_map(texts).collect(),
            Yaml::Hash(map) => map.values().flat_map(texts).collect(),
            _ => Vec::new(),
        }
    }

    /// What is wrong with the verb or the options of a command that runs the harness.
    fn complaint(command: &str) -> Option<String> {
        let (_, command) = command.split_once("-- ").filter(|(_, rest)| !rest.starts_with('-'))?;
        let words = shlex::split(command).unwrap();
        let harness = Arguments::command();
        let Some(verb) = harness.find_subcommand(&words[0]) else { return Some(format!("{} is no verb", words[0])) };
        let places = verb.get_positionals().count();
        let mut others = Vec::new();
        let mut words = words[1..].iter().peekable();
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                others.push(word.as_str());
                continue;
            }
            let known = verb.get_arguments().find(|known| known.get_long() == word.strip_prefix("--"));
            let Some(known) = known else { return Some(format!("{word} is no option")) };
            if known.get_action().takes_values() && words.next_if(|value| !value.starts_with("--")).is_none() {
                return Some(format!("{word} has no value"));
            }
        }
        (others.len() > places).then(|| format!("nothing takes {}", others.join(" ")))
    }

    #[test]
    fn the_ci_definitions_are_yaml_and_their_commands_fit_the_command_line() {
        for (file, script) in [("github", "jobs"), ("gitlab", "gate")] {
            let documents = YamlLoader::load_from_str(&text(&format!("docs/ci/{file}.yml"))).unwrap();
            let commands = texts(&documents[0][script]);
            assert!(commands.iter().any(|command| command.contains("-p harness -- gate --candidate ")), "{commands:?}");
            for command in &commands {
                assert_eq!(complaint(command), None, "{file}: {command}");
                if let Some(target) = command.strip_prefix("make -C gate ") {
                    assert!(text("Makefile").contains(&format!("\n{target}: ")), "{file}: {command}");
                }
            }
        }
    }

    #[test]
    fn the_commands_of_the_documentation_fit_the_command_line() {
        for (file, pattern, verbs) in [
            ("docs/gate.md", r"-- (gate [^\n]*)", &["gate"][..]),
            ("Makefile", r"\$\(HARNESS\) (gate [^\n]*)", &["gate"]),
            // In a block or between backticks, up to the end of the command.
            ("docs/guide.md", r"(?m)(?:^\s*|`)harness ([^\n`|;]+)", &["deb", "gate", "lintian"]),
        ] {
            // A function of the guide passes its arguments on.
            let text = text(file).replace("\\\n", " ").replace("\"$@\"", "--write-manifest product/validated");
            let commands = regex::Regex::new(pattern).unwrap();
            let commands: Vec<_> = commands.captures_iter(&text).map(|found| format!("-- {}", &found[1])).collect();
            for verb in verbs {
                let begins = |command: &String| command.starts_with(&format!("-- {verb}"));
                assert!(commands.iter().any(begins), "{file} has no command {verb}: {commands:?}");
            }
            for command in commands {
                assert_eq!(complaint(&command), None, "{file}: {command}");
            }
        }
        for (command, said) in [
            ("harness -- gate --candidat x", "--candidat is no option"),
            ("harness -- gat --candidate x", "gat is no verb"),
            ("harness -- deb a b", "nothing takes a b"),
        ] {
            assert_eq!(complaint(command).as_deref(), Some(said));
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
