//! Works the rollback store by hand, and prints how long each step took, in milliseconds. For `harness bench rollback`.
//!
//! `rollback DIRECTORY install NUMBER` makes a machine with this many paths in a directory. `all` instead of `install` saves the
//! rollback data of such a machine, upgrades all of it, rolls it back and discards the data. `rollback DIRECTORY save PACKAGE...`,
//! `compare` and `restore` are these steps for a machine that another program upgrades.

#![allow(clippy::disallowed_methods, reason = "it makes files of its own")]

use std::fmt::Write as _;
use std::fs;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use upgrader::model::package::PackageName;
use upgrader::paths::Paths;
use upgrader::rollback::{Scope, Store, discard, measure, open, save};

/// How many files a package has.
const FILES: usize = 100;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, verb, rest @ ..] = &arguments[..] else { bail!("a directory and what to do are needed") };
    let root = Path::new(root);
    let paths = Paths::of_program(Path::new("/usr/bin/bench-upgrade"))?.below(root);
    match (verb.as_str(), rest) {
        ("install", [number]) => install(root, number.parse::<usize>()? / FILES),
        ("all", [number]) => all(&paths, number.parse::<usize>()? / FILES),
        ("save", packages) => begin(&paths, packages.to_vec()),
        ("compare", []) => differences(&open(&paths)?.context("no store")?),
        ("restore", []) => back(&open(&paths)?.context("no store")?),
        _ => bail!("{verb}: not known"),
    }
}

/// All in turn, with a machine made for it.
fn all(paths: &Paths, packages: usize) -> Result<()> {
    let root = paths.root();
    begin(paths, (0..packages).map(|number| format!("p{number}")).collect())?;
    upgrade(root, packages)?;
    let store = open(paths)?.context("no store")?;
    back(&store)?;
    ensure!(store.compare()?.is_empty(), "the machine is not what it was");
    timed("discard", || discard(paths))
}

fn begin(paths: &Paths, packages: Vec<String>) -> Result<()> {
    rustix::fs::sync();
    let scope = Scope { packages: packages.into_iter().map(PackageName::from).collect(), declared: Vec::new() };
    let space = || rustix::fs::statvfs(paths.root()).map(|it| (it.f_bfree * it.f_frsize, it.f_ffree));
    let before = space()?;
    let needs = timed("measure", || measure(paths, &scope))?;
    let saved = timed("save", || save(paths, &scope, &mut |_| ()))?;
    let after = space()?;
    let (bytes, inodes) = (before.0.saturating_sub(after.0), before.1.saturating_sub(after.1));
    Ok(writeln!(stdout(), "{saved:?}\n{needs:?}\n{bytes} bytes and {inodes} inodes less")?)
}

fn differences(store: &Store) -> Result<()> {
    let differences = timed("compare", || store.compare())?;
    differences.iter().try_for_each(|it| Ok(writeln!(stdout(), "{} {:?}", it.path.display(), it.change)?))
}

fn back(store: &Store) -> Result<()> {
    let damages = timed("check", || store.check())?;
    let restored = timed("restore", || store.restore(&mut |_| ()))?;
    Ok(writeln!(stdout(), "{damages:?}\n{restored:?}")?)
}

/// Prints how long something takes.
fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let done = work()?;
    writeln!(stdout(), "{what} {}", began.elapsed().as_millis())?;
    Ok(done)
}

/// Installs packages, each with as many files as most have, in a directory of its own.
fn install(root: &Path, packages: usize) -> Result<()> {
    for directory in ["etc", "boot", "var/lib/dpkg/info"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::write(root.join("var/lib/dpkg/status"), vec![b'x'; 1 << 20])?;
    for package in 0..packages {
        let mut list = format!("/.\n/usr\n/usr/share\n/usr/share/p{package}\n");
        for file in 1..FILES {
            writeln!(list, "/usr/share/p{package}/file-{file}")?;
        }
        fs::write(root.join(format!("var/lib/dpkg/info/p{package}.list")), list)?;
        fs::write(root.join(format!("etc/p{package}.conf")), "text = 1\n".repeat(50))?;
    }
    each(root, packages, |path| {
        fs::create_dir_all(path.parent().context("a directory")?)?;
        Ok(fs::write(path, vec![1; 6000])?)
    })
}

/// Replaces each file as dpkg does.
fn upgrade(root: &Path, packages: usize) -> Result<()> {
    each(root, packages, |path| {
        let new = path.with_extension("dpkg-new");
        fs::write(&new, vec![2; 6000])?;
        Ok(fs::rename(new, path)?)
    })?;
    rustix::fs::sync();
    Ok(())
}

fn each(root: &Path, packages: usize, work: impl Fn(&Path) -> Result<()>) -> Result<()> {
    for package in 0..packages {
        for file in 1..FILES {
            work(&root.join(format!("usr/share/p{package}/file-{file}")))?;
        }
    }
    Ok(())
}
