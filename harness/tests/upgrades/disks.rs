//! Machines whose root is a real filesystem: the machine boots from it, and an upgrade and a rollback on it are right.

use anyhow::{Result, ensure};
use harness::machines::disk::Filesystem;
use harness::machines::engine::Engine;
use harness::machines::image::Debian;
use harness::machines::machine::{Machine, Storage};

use crate::scenario::scenarios;

scenarios! {
    /// A machine boots from ext4, XFS and btrfs, and from what was captured of its disk.
    Checked boots_from_each_filesystem;
}

fn boots_from_each_filesystem(debian: Debian) -> Result<()> {
    let engine = Engine::connect()?;
    for filesystem in Filesystem::ALL {
        let machine = Machine::boot(Storage::Disk(filesystem), &engine, &debian.machine())?;
        machine.write("/etc/durable", b"synced\n", 0o644)?;
        machine.sh("sync")?;
        ensure!(machine.sh("findmnt --noheadings --output FSTYPE /")?.trim() == filesystem.to_string());
        let boot = machine.sh("cat /proc/sys/kernel/random/boot_id")?;
        let Some(disk) = machine.disk() else { anyhow::bail!("the machine has no disk") };
        machine.sh("echo lost >/etc/lost")?;
        let capture = disk.capture()?;
        let after =
            Machine::boot_disk(harness::machines::disk::Disk::of_capture(&capture)?, &engine, &debian.machine())?;
        ensure!(after.sh("cat /etc/durable")? == "synced\n");
        ensure!(after.sh("test ! -s /etc/lost; cat /proc/sys/kernel/random/boot_id")? != boot);
    }
    Ok(())
}
