//! Finds the script or module that an interpreter runs.

use std::path::{Path, PathBuf};

/// Programs that run a file which is not mapped, by their names without the version.
const INTERPRETERS: [&str; 10] = ["python", "perl", "ruby", "php", "lua", "node", "nodejs", "sh", "dash", "bash"];

/// The script or module that an interpreter runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Main {
    /// A file, relative to the directory that the interpreter was started in.
    File(String),
    /// A Python module: `asyncio.server`.
    Module(String),
}

/// True for a program that runs scripts: `/usr/bin/python3.11`.
pub(crate) fn is_interpreter(program: &Path) -> bool {
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    INTERPRETERS.contains(&name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.'))
}

/// What an interpreter was told to run, from the content of `/proc/PID/cmdline`: words that end with a zero byte. `None` for
/// a program in the arguments themselves. Some scripts overwrite theirs; those that begin with their own path are known by it.
pub(crate) fn main_of(command_line: &[u8]) -> Option<Main> {
    let mut words = command_line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let interpreter = String::from_utf8_lossy(words.next()?).into_owned();
    if interpreter.starts_with('/') && !is_interpreter(Path::new(&interpreter)) {
        return interpreter.split_whitespace().next().map(|script| Main::File(script.to_owned()));
    }
    let python = interpreter.rsplit('/').next()?.starts_with("python");
    let mut text = || words.next().map(|word| String::from_utf8_lossy(word).into_owned());
    loop {
        let word = text()?;
        match word.as_str() {
            "--" => return text().map(Main::File),
            "-m" if python => return text().map(Main::Module),
            "-" | "-c" | "-e" | "-E" if !(python && word == "-E") => return None,
            // Options of python, perl and ruby that take a value.
            "-W" | "-X" | "-I" | "-r" | "-C" if !(python && word == "-I") => drop(text()?),
            option if option.starts_with('-') => {}
            _ => return Some(Main::File(word)),
        }
    }
}

/// Where a Python module that a Debian package brought may be, below the root directory.
pub(crate) fn files_of_module(module: &str) -> [PathBuf; 2] {
    let path = Path::new("/usr/lib/python3/dist-packages").join(module.replace('.', "/"));
    [path.join("__main__.py"), path.with_extension("py")]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_script_is_found_behind_the_options() {
        let file = |path: &str| Some(Main::File(path.to_owned()));
        for (words, expected) in [
            (&["/usr/bin/perl", "-T", "-w", "/usr/sbin/munin-node", "--foreground"][..], file("/usr/sbin/munin-node")),
            (&["perl", "-I", "/usr/share/x", "main.pl"], file("main.pl")),
            (
                &["/usr/bin/python3", "-I", "-W", "ignore", "/usr/bin/fail2ban-server", "-xf"],
                file("/usr/bin/fail2ban-server"),
            ),
            (&["/usr/bin/python3", "-E", "/usr/bin/x"], file("/usr/bin/x")),
            (&["python3", "-m", "provd.main", "-s"], Some(Main::Module("provd.main".to_owned()))),
            (&["sh", "--", "-odd"], file("-odd")),
            (&["/usr/sbin/munin-node [10.0.0.1]"], file("/usr/sbin/munin-node")),
            (&["postgrey", "--daemonize"], None),
            (&["perl", "-e", "sleep"], None),
            (&["python3", "-c", "pass"], None),
            (&["-bash"], None),
            (&[], None),
        ] {
            assert_eq!(main_of(words.join("\0").as_bytes()), expected, "{words:?}");
        }
    }

    #[test]
    fn interpreters_are_known_whatever_their_version() {
        for program in ["/usr/bin/python3.11", "/usr/bin/perl", "/usr/bin/perl5.36.0", "/bin/dash"] {
            assert!(is_interpreter(Path::new(program)), "{program}");
        }
        for program in ["/usr/sbin/cron", "/usr/bin/python-something", "/", ""] {
            assert!(!is_interpreter(Path::new(program)), "{program}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_nothing_breaks(bytes: Vec<u8>, words in "(-[a-zA-Z-]?\0|[ -~]{0,5}\0|é\0){0,9}", module: String) {
            let _ = main_of(&bytes);
            let _ = main_of(format!("/usr/bin/python3\0{words}").as_bytes());
            let _ = files_of_module(&module);
        }
    }
}
