use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::appliance;
use crate::binaries;
use crate::command;
use crate::image::Debian;
use crate::observation::{Happened, Mark, SystemState};
use crate::shipped::SERVICES;

/// How often each thing is measured. What counts is the median.
const RUNS: usize = 5;

/// How often a program is started to see how long that takes.
const STARTS: u32 = 50;

/// Measures what a world and what the upgrader cost beside the bare apt commands, in turns, and how small and quick the
/// programs are.
pub fn run(out: &mut dyn Write) -> Result<()> {
    programs(out)?;
    for debian in Debian::ALL {
        worlds(debian, out)?;
    }
    Ok(())
}

fn programs(out: &mut dyn Write) -> Result<()> {
    writeln!(out, "The upgrader's programs")?;
    let directory = binaries::build()?;
    let mut total = 0;
    for program in ["xivo-upgrade", "real-xivo-upgrade"] {
        let path = directory.join(program);
        let size = path.metadata().with_context(|| path.display().to_string())?.len();
        total += size;
        let start = Instant::now();
        for _ in 0..STARTS {
            version_of(&path)?;
        }
        let each = start.elapsed() / STARTS;
        writeln!(
            out,
            "  {program:<20} {:>6.2} MB   --version in {:.2} ms (mean of {STARTS})",
            mega(size),
            milli(each)
        )?;
    }
    writeln!(out, "  {:<20} {:>6.2} MB", "together", mega(total))?;
    Ok(())
}

fn version_of(program: &Path) -> Result<()> {
    command::silently(program, [OsStr::new("--version")])
}

/// The parts of one world's life.
struct Life {
    /// From nothing to nothing: boot, old release, upgrade, collected, gone.
    whole: Duration,
    /// The upgrade alone.
    upgrade: Duration,
}

fn worlds(debian: Debian, out: &mut dyn Write) -> Result<()> {
    // The first one may have to install the old release for all the others.
    live(debian, Upgrade::Bare)?;
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        bare.push(live(debian, Upgrade::Bare)?);
        ours.push(live(debian, Upgrade::Upgrader)?);
    }
    let of = |lives: &[Life], part: fn(&Life) -> Duration| median(lives.iter().map(part).collect());
    let upgrade = [of(&bare, |life| life.upgrade), of(&ours, |life| life.upgrade)];
    let whole = [of(&bare, |life| life.whole), of(&ours, |life| life.whole)];
    writeln!(out, "\nA warm world on {debian}, XiVO 1.2.1 to 1.2.2, eight services (medians of {RUNS}, in turns)")?;
    writeln!(out, "  {:<44} {:>9} {:>9}", "", "bare apt", "upgrader")?;
    let row = |name: &str, values: [Duration; 2], out: &mut dyn Write| {
        writeln!(out, "  {name:<44} {:>7.2} s {:>7.2} s", values[0].as_secs_f64(), values[1].as_secs_f64())
    };
    row("update, dist-upgrade, restart, in the machine", upgrade, out)?;
    row("the whole world around it", whole, out)?;
    row("the world adds", [whole[0].saturating_sub(upgrade[0]), whole[1].saturating_sub(upgrade[1])], out)?;
    let ratio = upgrade[1].as_secs_f64() / upgrade[0].as_secs_f64();
    writeln!(out, "  the upgrader takes {ratio:.2} times the bare apt commands")?;
    Ok(())
}

#[derive(Clone, Copy)]
enum Upgrade {
    Bare,
    Upgrader,
}

fn live(debian: Debian, how: Upgrade) -> Result<Life> {
    let born = Instant::now();
    let world = appliance::upgradable(debian)?;
    let machine = &world.machine;
    let mark = Mark::set(machine)?;
    let script = format!(
        "export DEBIAN_FRONTEND=noninteractive; apt-get -q update; apt-get -q -y dist-upgrade; for service in {}; do systemctl restart $service; done",
        SERVICES.join(" ")
    );
    let start = Instant::now();
    let transcript = match how {
        Upgrade::Bare => machine.command(&["sh", "-euc", &script]).run()?,
        Upgrade::Upgrader => world.upgrade(&["--yes"]).run()?,
    };
    let upgrade = start.elapsed();
    ensure!(transcript.exit == 0, "{transcript}");
    let state = SystemState::of(machine, &SERVICES)?;
    ensure!(state.services.values().all(|service| service.version == "1.2.2"), "{state:?}");
    Happened::since(&mark, machine, &SERVICES)?;
    drop(world);
    Ok(Life { whole: born.elapsed(), upgrade })
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn milli(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
