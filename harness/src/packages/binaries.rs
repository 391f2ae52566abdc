//! Builds the upgrader's programs in their shipped form.

use std::ffi::OsStr;
use std::io::{IsTerminal as _, stderr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::run_with;
use crate::data::tree;

/// The directory of programs that are built already, so that a test run calls cargo once and not once a test.
pub const PREBUILT: &str = "UPGRADER_BINARIES";

/// The upgrader's programs as they are shipped, static and stripped.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `NAME-upgrade`.
    pub upgrade: Vec<u8>,
    /// `real-NAME-upgrade`.
    pub real_upgrade: Vec<u8>,
}

impl Binaries {
    /// Reads the programs, after having cargo bring them up to date.
    pub fn read() -> Result<Self> {
        let directory = match std::env::var_os(PREBUILT) {
            Some(directory) => PathBuf::from(directory),
            None => build()?,
        };
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path).with_context(|| path.display().to_string())
        };
        Ok(Self { upgrade: read("xivo-upgrade")?, real_upgrade: read("real-xivo-upgrade")? })
    }
}

/// Builds the programs as they are shipped, and says where they are.
pub fn build() -> Result<PathBuf> {
    build_targets(&["--bins"])
}

/// Builds one of the upgrader's examples in the same way, and says where it is.
pub fn build_example(name: &str) -> Result<PathBuf> {
    Ok(build_targets(&["--example", name])?.join("examples").join(name))
}

/// How the shipped programs are built: static, with their relocations packed (`DT_RELR`), which takes 100 kB less, and without the tables for
/// unwinding and their index, 370 kB that a program that aborts on a panic never reads.
const FLAGS: [&str; 4] = [
    "-Ctarget-feature=+crt-static",
    "-Clink-arg=-Wl,-z,pack-relative-relocs",
    "-Clink-arg=-Wl,--no-eh-frame-hdr",
    "-Clink-arg=-T",
];

/// The linker script that leaves the tables for unwinding out.
const LINKER_SCRIPT: &str = "harness/src/packages/no-unwind-tables.ld";

/// Builds some of the upgrader's programs, and says which directory they are in.
fn build_targets(targets: &[&str]) -> Result<PathBuf> {
    let target = match std::env::consts::ARCH {
        machine @ ("x86_64" | "aarch64") => format!("{machine}-unknown-linux-gnu"),
        other => bail!("the upgrader is not built for {other} yet"),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The explicit target keeps the flag away from macros that run on this host: those cannot be static.
    let arguments = ["build", "--release", "--package=upgrader", "--target", &target];
    let (manifest, script) = (tree("Cargo.toml"), tree(LINKER_SCRIPT));
    let built = self::target().join(target.as_str()).join("release");
    // Without a terminal cargo reports only a build from scratch.
    let quiet = (built.join("real-xivo-upgrade").exists() && !stderr().is_terminal()).then_some(OsStr::new("--quiet"));
    run_with(
        Path::new(&cargo),
        arguments
            .iter()
            .chain(targets)
            .map(OsStr::new)
            .chain(quiet)
            .chain([OsStr::new("--manifest-path"), manifest.as_os_str()]),
        // Separated by a character that no path has.
        &[(
            "CARGO_ENCODED_RUSTFLAGS",
            OsStr::new(&format!("{}\u{1f}-Clink-arg={}", FLAGS.join("\u{1f}"), script.display())),
        )],
    )
    .context("the upgrader could not be built")?;
    Ok(built)
}

/// Where cargo puts what it builds, and the harness what is worth keeping.
#[must_use]
pub fn target() -> PathBuf {
    tree("").join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// dpkg's name for this host's architecture.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// True if a program has a header of this type (elf(5)).
    fn has_header(program: &[u8], wanted: u32) -> bool {
        let number = |at: usize, size: usize| {
            program[at..at + size].iter().rev().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte))
        };
        let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        assert!(program.starts_with(b"\x7fELF\x02\x01") && count > 0, "a 64-bit little-endian ELF file");
        (0..count).any(|index| number(table + index * size, 4) == wanted as usize)
    }

    #[test]
    fn the_programs_are_static_and_small() {
        const PT_LOAD: u32 = 1;
        const PT_INTERP: u32 = 3;
        let binaries = Binaries::read().unwrap();
        for program in [&binaries.upgrade, &binaries.real_upgrade] {
            assert!(has_header(program, PT_LOAD), "this check finds nothing");
            assert!(!has_header(program, PT_INTERP), "an upgrade of libc could break the running upgrader");
        }
        // Rollback takes a tenth of the second program, pairs and validated sets a twentieth.
        for (program, most) in [(&binaries.upgrade, 2_500_000), (&binaries.real_upgrade, 3_400_000)] {
            assert!(program.len() < most, "it has {} bytes", program.len());
        }
    }
}
