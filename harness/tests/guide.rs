//! Runs the commands of docs/guide.md in order, and compares their output with the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _, stderr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use harness::data::{self, tree};
use harness::machines::engine::Engine;
use harness::machines::image;
use harness::machines::isolation;
use harness::matrix::state::State;
use regex::Regex;
use rustix::process::{Pid, Signal, kill_process_group};
use similar::TextDiff;
use tempfile::TempDir;
use upgrader::config::product::Product;

const GUIDE: &str = "docs/guide.md";

/// The names of the images that the gate makes for the product of the guide.
const IMAGES: [&str; 2] = ["bookworm-gate-vane", "trixie-gate-vane"];

/// Variables of the test run that a reader of the guide does not have.
const VARIABLES_OF_TESTS: [&str; 7] =
    ["UPGRADER_BINARIES", "CARGO_TARGET_DIR", "RUST_BACKTRACE", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "GNUPGHOME"];

/// Commands, and their output if the guide shows it.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// The line of the guide on which the commands begin.
    line: usize,
    commands: String,
    output: Option<String>,
}

fn guide() -> Result<Vec<Block>> {
    blocks(&documented::text(GUIDE))
}

/// The blocks of a guide: each fence is `sh`, commands, or `text`, what the commands right before it print.
fn blocks(text: &str) -> Result<Vec<Block>> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = text.lines().enumerate();
    // Whether nothing but empty lines has come since the commands of the last block.
    let mut fresh = false;
    while let Some((index, line)) = lines.next() {
        let Some(kind) = line.trim_start().strip_prefix("```") else {
            fresh &= line.is_empty();
            continue;
        };
        let line = index + 1;
        let mut inside = String::new();
        loop {
            match lines.next() {
                None => bail!("{GUIDE}:{line}: this block has no end"),
                Some((_, "```")) => break,
                Some((_, more)) => inside.extend([more, "\n"]),
            }
        }
        match (kind, blocks.last_mut()) {
            ("sh", _) => {
                blocks.push(Block { line: line + 1, commands: inside, output: None });
                fresh = true;
            }
            ("text", Some(block)) if fresh => {
                block.output = Some(inside);
                fresh = false;
            }
            ("text", _) => bail!("{GUIDE}:{line}: no commands are right before this output"),
            _ => bail!("{GUIDE}:{line}: a block is sh or text, not {kind:?}"),
        }
    }
    ensure!(!blocks.is_empty(), "{GUIDE} has no block");
    Ok(blocks)
}

/// The files that are written with `cat >PATH <<'END'` and `cat >>PATH <<'END'`, as they are in the end.
fn files(blocks: &[Block]) -> BTreeMap<&str, String> {
    let mut files = BTreeMap::new();
    for block in blocks {
        let mut lines = block.commands.lines();
        while let Some(line) = lines.next() {
            let Some(path) = line.strip_prefix("cat >").and_then(|line| line.strip_suffix(" <<'END'")) else {
                continue;
            };
            let content: Vec<&str> =
                lines.by_ref().take_while(|line| *line != "END").flat_map(|line| [line, "\n"]).collect();
            let content = content.concat();
            match path.strip_prefix('>') {
                Some(path) => *files.entry(path).or_default() += &*content,
                None => drop(files.insert(path, content)),
            }
        }
    }
    files
}

/// The difference between the shown and the real output. `…` stands for any text on a line; a line of `…` alone stands for any lines.
fn difference(shown: &str, seen: &str) -> Result<Option<String>> {
    let seen: String = seen.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
    let line = |line: &str| match line.trim() {
        "…" => "(?:.*\n)*".to_owned(),
        _ => format!("{}\n", line.split('…').map(regex::escape).collect::<Vec<_>>().join(".*")),
    };
    let pattern: String = shown.lines().map(line).collect();
    if Regex::new(&format!("^{pattern}$"))?.is_match(&seen) {
        return Ok(None);
    }
    Ok(Some(TextDiff::from_lines(shown, &seen).unified_diff().header("shown", "seen").to_string()))
}

/// A bash in a new directory that runs block after block. It ends and its directory is removed when dropped.
struct Reader {
    bash: Child,
    go_on: ChildStdin,
    done: Lines<BufReader<ChildStdout>>,
    home: TempDir,
}

impl Reader {
    #[expect(clippy::disallowed_methods, reason = "a shell that is spoken to")]
    fn new(blocks: &[Block]) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let [work, output] = ["work", "output"].map(|name| home.path().join(name));
        fs::create_dir(&work)?;
        fs::create_dir(&output)?;
        let (go, all) = (home.path().join("go"), home.path().display());
        // The background process cleans up even if this test is killed.
        let mut script = format!(
            "exec 8<&0 9>&1 </dev/null
            mkfifo {go}
            (
                trap '' TERM
                while read -r line <&8; do echo >{go}; done
                kill -TERM -- -$$
                until rm -rf {all}; do sleep 0.1; done
            ) >/dev/null 9>&- &
            # Open both ways: a pipe of which the last writer is about to go would be at its end already.
            exec 7<>{go}
            set -euo pipefail\n",
            go = go.display()
        );
        for (index, block) in blocks.iter().enumerate() {
            // A list in braces is no shell of its own: what it sets stays.
            let output = output.join(index.to_string());
            writeln!(script, "{{\n{}}} >{} 2>&1 7<&- 8<&- 9>&-", block.commands, output.display())?;
            writeln!(script, "echo {index} >&9\nread -r _ <&7")?;
        }
        let file = home.path().join("script");
        fs::write(&file, script)?;
        let mut command = Command::new("bash");
        command.arg(&file).current_dir(&work).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("XIVO_UPGRADE", tree("").canonicalize()?);
        for variable in VARIABLES_OF_TESTS {
            command.env_remove(variable);
        }
        let mut bash = command.spawn().context("bash could not be started")?;
        let go_on = bash.stdin.take().context("no stdin")?;
        let done = BufReader::new(bash.stdout.take().context("no stdout")?).lines();
        Ok(Self { bash, go_on, done, home })
    }

    /// What the commands of a block print.
    fn follow(&mut self, index: usize) -> Result<String> {
        let done = self.done.next().transpose()?;
        let output = fs::read(self.home.path().join("output").join(index.to_string())).unwrap_or_default();
        let output = String::from_utf8_lossy(&output).into_owned();
        ensure!(done.is_some(), "a command failed; all that was printed:\n{output}");
        self.go_on.write_all(b"\n")?;
        Ok(output)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Ends all processes of the guide, even after a failure.
        if let Some(group) = Pid::from_raw(self.bash.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::TERM);
        }
        let _ = self.bash.wait();
    }
}

/// Removes from the engine what the guide has left in it, when dropped.
struct Tidy;

impl Drop for Tidy {
    fn drop(&mut self) {
        for engine in Engine::connect().ok().into_iter().chain(isolation::engine()) {
            let _ = engine.sweep();
            for name in IMAGES {
                let _ = image::forget(&engine, name);
            }
        }
    }
}

#[test]
#[ignore = "builds everything from scratch and gates a product five times: make test-guide"]
fn the_guide_leads_to_a_release() -> Result<()> {
    let blocks = guide()?;
    let start = Instant::now();
    // Dropped after the reader.
    let _tidy = Tidy;
    let mut reader = Reader::new(&blocks)?;
    for (index, block) in blocks.iter().enumerate() {
        let begin = Instant::now();
        let seen = reader.follow(index).with_context(|| format!("{GUIDE}:{}", block.line))?;
        if let Some(shown) = &block.output
            && let Some(difference) = difference(shown, &seen)?
        {
            bail!("{GUIDE}:{}: what is printed is not what is shown:\n{difference}", block.line);
        }
        writeln!(stderr(), "{GUIDE}:{}: {:.0} s", block.line, begin.elapsed().as_secs_f64())?;
    }
    let took = start.elapsed().as_secs();
    writeln!(stderr(), "{GUIDE}: {} blocks in {} min {} s", blocks.len(), took / 60, took % 60)?;
    Ok(())
}

#[test]
fn the_guide_is_sound() -> Result<()> {
    let blocks = guide()?;
    let files = files(&blocks);
    let home = tempfile::tempdir()?;
    let written = |name: &str| -> Result<PathBuf> {
        let path = home.path().join(Path::new(name).file_name().context("a name")?);
        fs::write(&path, files.get(name).with_context(|| format!("{GUIDE} does not write {name}"))?)?;
        Ok(path)
    };
    let product = Product::read(&written("product/product.toml")?)?;
    ensure!(product.name == "Vane" && product.services.order.len() == 2, "{product:?}");
    let state: State = data::read(&written("edited.toml")?)?;
    ensure!(!state.respected.is_empty() && state.expect.differs.len() == 2, "{state:?}");
    let script = home.path().join("script");
    fs::write(&script, blocks.iter().flat_map(|block| ["{\n", &block.commands, "}\n"]).collect::<String>())?;
    harness::command::run(Path::new("bash"), ["-n".as_ref(), script.as_os_str()])?;
    Ok(())
}

#[test]
fn a_bad_block_is_named() {
    let said = |text: &str| blocks(text).unwrap_err().to_string();
    assert_eq!(said("a\n```toml\nx = 1\n```\n"), "docs/guide.md:2: a block is sh or text, not \"toml\"");
    assert_eq!(said("```\nx\n```\n"), "docs/guide.md:1: a block is sh or text, not \"\"");
    assert_eq!(said("```sh\nx\n```\nb\n```text\n```\n"), "docs/guide.md:5: no commands are right before this output");
    assert_eq!(said("```sh\nx\n"), "docs/guide.md:1: this block has no end");
    assert_eq!(said("nothing"), "docs/guide.md has no block");
}

#[test]
fn an_output_is_compared_except_for_dots() {
    let same = |shown, seen| difference(shown, seen).unwrap().is_none();
    assert!(same("a … s\n…\nend\n", "a 12 s\nb\nc\nend\n"));
    assert!(same("…\n", "") && same("", "") && same("a\n", "a  \n"));
    assert!(!same("a … s\n", "a 12 m\n"));
    assert!(!same("a\n", "a\nb\n") && !same("a\nb\n", "a\n") && !same("", "a\n"));
    assert!(!same("a.c\n", "abc\n"), "a dot is a dot");
}

#[test]
fn a_failed_command_ends_the_run_and_variables_are_kept() -> Result<()> {
    let block = |commands: &str| Block { line: 1, commands: commands.to_owned(), output: None };
    let blocks = [
        block("a=1\nmkdir x && cd x\n"),
        block("echo $a ${PWD##*/}\n"),
        block("echo so; false\necho far\n"),
        block(":\n"),
    ];
    let mut reader = Reader::new(&blocks)?;
    ensure!(reader.follow(0)?.is_empty() && reader.follow(1)? == "1 x\n");
    let error = reader.follow(2).map(|_| ()).unwrap_err().to_string();
    ensure!(error == "a command failed; all that was printed:\nso\n", "{error}");
    Ok(())
}
