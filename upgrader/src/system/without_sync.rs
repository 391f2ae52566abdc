//! Runs programs whose fsync(2) returns at once, by a seccomp filter. For changes that are rolled back after a power cut, and that
//! syncfs(2) brings to the disk when they are complete.

use std::ffi::OsString;
use std::path::Path;

use anyhow::anyhow;
use seccompiler::{BpfProgram, apply_filter, sock_filter};

use crate::files;
use crate::system::command::Program;

/// The verb of the upgrader that becomes another program under the filter.
pub(crate) const VERB: &str = "without-sync";

/// The machine's own architecture (`AUDIT_ARCH_*` of linux/audit.h), and the numbers of fsync(2) and fdatasync(2) on it (asm/unistd.h).
/// `sync_file_range(2)` stays: with it dpkg waits until the content of a file is written before it renames the file. So a file that is
/// on the disk has its content, also without a flush of the disk's cache. sync(2) and syncfs(2) stay, too: scripts call them.
const SYNC_CALLS: Option<(u32, [u32; 2])> = if cfg!(target_arch = "x86_64") {
    Some((0xC000_003E, [74, 75]))
} else if cfg!(target_arch = "aarch64") {
    Some((0xC000_00B7, [82, 83]))
} else {
    None
};

/// A program that will run under the filter, as will all that it starts. It keeps its name in errors.
pub(crate) fn program(name: &str) -> Program {
    match std::env::current_exe() {
        // It is not there any more if its package was upgraded meanwhile.
        Ok(own) if SYNC_CALLS.is_some() && files::exists(&own) => Program::behind(&own, VERB, name),
        _ => Program::new(name),
    }
}

/// Installs the filter, and becomes this program. Without a kernel that can filter, the program runs all the same. Returns only the error.
pub(crate) fn become_program(command: &[OsString]) -> anyhow::Error {
    let Some((name, arguments)) = command.split_first() else { return anyhow!("no program") };
    if let Some((architecture, calls)) = SYNC_CALLS {
        let _ = apply_filter(&filter(architecture, &calls));
    }
    let error = Program::become_program(Path::new(name), arguments.iter().cloned(), None);
    anyhow::Error::new(error).context(name.display().to_string())
}

/// A filter that answers these system calls with success. All others are allowed, and those of programs for another architecture: see
/// seccomp(2) for its instructions and the offsets of `struct seccomp_data`.
fn filter(architecture: u32, calls: &[u32]) -> BpfProgram {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7FFF_0000;
    const SUCCESS: u32 = 0x0005_0000;
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    let step = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    let mut program = vec![
        step(LOAD, ARCHITECTURE),
        sock_filter { code: JUMP_IF_EQUAL, jt: 1, jf: 0, k: architecture },
        step(RETURN, ALLOW),
        step(LOAD, NUMBER),
    ];
    for call in calls {
        program.push(sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: *call });
        program.push(step(RETURN, SUCCESS));
    }
    program.push(step(RETURN, ALLOW));
    program
}
