//! Measures the rollback store below a directory: a machine with this many paths is armed, upgraded in all of them and
//! restored. Prints what the store is made of and how long each took, in milliseconds. For `harness bench rollback`.

use std::fs;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use upgrader::paths::Paths;
use upgrader::store::{Scope, arm, discard, open};

/// How many files a package has.
const FILES: usize = 100;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().context("a directory")?;
    let packages: usize = arguments.next().context("a number of paths")?.parse::<usize>()? / FILES;
    let root = Path::new(&root);
    let paths = Paths::of_program(Path::new("/usr/bin/bench-upgrade"))?.below(root);
    let scope = Scope { packages: (0..packages).map(|number| format!("p{number}")).collect(), declared: Vec::new() };
    install(root, packages)?;
    rustix::fs::sync();
    let space = || rustix::fs::statvfs(root).map(|it| (it.f_bfree * it.f_frsize, it.f_ffree));
    let before = space()?;

    let began = Instant::now();
    let armed = arm(&paths, &scope, &mut |_| ())?;
    let arming = began.elapsed();
    let after = space()?;
    let store = open(&paths)?.context("a store")?;
    upgrade(root, packages)?;
    let began = Instant::now();
    ensure!(store.check()?.is_empty(), "the store is damaged");
    let checking = began.elapsed();
    let began = Instant::now();
    let restored = store.restore(&mut |_| ())?;
    let restoring = began.elapsed();
    ensure!(store.compare()?.is_empty() && restored.left.is_empty(), "the machine is not what it was");
    let began = Instant::now();
    discard(&paths)?;
    let discarding = began.elapsed();
    writeln!(
        stdout(),
        "{} paths: {} linked, {} reflinked, {} copied with {} bytes; {} bytes and {} inodes less\n\
         arm {}\ncheck {}\nrestore {} ({} paths changed)\ndiscard {}",
        armed.paths,
        armed.linked,
        armed.reflinked,
        armed.copied,
        armed.bytes,
        before.0.saturating_sub(after.0),
        before.1.saturating_sub(after.1),
        arming.as_millis(),
        checking.as_millis(),
        restoring.as_millis(),
        restored.changed,
        discarding.as_millis(),
    )?;
    Ok(())
}

/// Installs packages, each with as many files as most have, in a directory of its own.
fn install(root: &Path, packages: usize) -> Result<()> {
    for directory in ["etc", "boot", "var/lib/dpkg/info"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::write(root.join("var/lib/dpkg/status"), vec![b'x'; 1 << 20])?;
    for package in 0..packages {
        let mut list = "/.\n/usr\n/usr/share\n".to_owned();
        list += &format!("/usr/share/p{package}\n");
        for file in 1..FILES {
            list += &format!("/usr/share/p{package}/file-{file}\n");
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
