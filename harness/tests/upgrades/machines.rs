//! The test machines themselves: scenarios rely on these properties.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use harness::machines::engine::Engine;
use harness::machines::image::Debian;
use harness::machines::world::World;
use harness::observe::inventory::fingerprint;

use crate::scenario::scenarios;

scenarios! {
    /// On the test machines systemd is process 1 without --privileged, and nothing prevents services from starting or dpkg from syncing.
    Checked machine_is_realistic;
    /// A test notices a single changed file below /usr or /etc.
    Checked changed_file_is_found;
    /// The next run of the tests removes the containers that a killed one has left.
    Checked killed_runs_leave_nothing;
}

fn machine_is_realistic(debian: Debian) -> Result<()> {
    let world = World::boot(debian)?;
    let machine = &world.machine;
    ensure!(machine.sh("cat /proc/1/comm")?.trim() == "systemd");
    ensure!(machine.sh(". /etc/os-release; echo $VERSION_CODENAME")?.trim() == debian.to_string());
    machine.sh("test ! -e /usr/sbin/policy-rc.d")?;
    machine.sh("! grep -rs force-unsafe-io /etc/dpkg")?;
    machine.sh("! grep -rsE 'Post-Invoke.*rm -f' /etc/apt")?;
    // Capability 21 is SYS_ADMIN, 16 is SYS_MODULE: the first is needed, the second would come with --privileged.
    let capabilities = machine.sh("sed -n 's/^CapBnd:\\t//p' /proc/1/status")?;
    let capabilities = u64::from_str_radix(capabilities.trim(), 16)?;
    ensure!(capabilities & (1 << 21) != 0 && capabilities & (1 << 16) == 0, "capabilities are {capabilities:x}");
    // A journald that waits for its disk loses nothing of what systemd says: what happened is read from there.
    let starts = machine.sh("systemctl kill --signal=STOP systemd-journald
         for n in $(seq 20); do systemd-run --quiet --wait --property=StandardOutput=null --unit=start-$n true; done
         systemctl kill --signal=CONT systemd-journald
         journalctl --sync
         journalctl --quiet --output=cat _PID=1 | grep -c '^Started start-'")?;
    ensure!(starts.trim() == "20", "of 20 starts the journal has {starts}");
    Ok(())
}

fn changed_file_is_found(debian: Debian) -> Result<()> {
    let world = World::boot(debian)?;
    let mut seen = vec![fingerprint(&world.machine)?];
    ensure!(fingerprint(&world.machine)? == seen[0], "an untouched machine looks different the second time");
    for change in ["touch --reference=/usr/bin/env /usr/bin/env", "echo >>/etc/issue", "chmod u+s /usr/bin/env"] {
        world.machine.sh(change)?;
        let now = fingerprint(&world.machine)?;
        ensure!(!seen.contains(&now), "`{change}` was not seen");
        seen.push(now);
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a process to kill")]
fn killed_runs_leave_nothing(debian: Debian) -> Result<()> {
    let engine = Engine::connect()?;
    let mut run = Command::new(env!("CARGO_BIN_EXE_harness"))
        .args(["demo", &debian.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .context("the harness could not be started")?;
    let process = run.id();
    let deadline = Instant::now() + Duration::from_secs(60);
    while engine.owned_by(process)?.is_empty() {
        if Instant::now() > deadline {
            run.kill()?;
            bail!("the other run made no container");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    run.kill()?;
    run.wait()?;
    // Any other test that starts now sweeps as well; what counts is that nothing is left.
    engine.sweep()?;
    ensure!(engine.owned_by(process)?.is_empty(), "a container was left behind");
    Ok(())
}
