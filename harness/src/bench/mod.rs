//! Benchmarks of the upgrader and the harness. They compare the costs with limits or with other programs.

mod cell;
mod devices;
mod exchange;
mod memory;
mod next_debian;
mod outage;
mod peers;
mod programs;
mod release_upgrade;
mod repository;
mod rollback;
mod sheet;
mod speed;

use std::io::Write;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use self::sheet::Sheet;
use crate::machines::image::Debian;

/// How often most things are measured. The median counts.
const RUNS: usize = 5;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// How small the programs are
    Programs,
    /// How much memory a run needs
    Memory,
    /// How long a whole run takes beside the bare apt commands
    Speed,
    /// How long saving rollback data and a rollback take
    Rollback,
    /// How long services are away beside a bare restart of them
    Outage,
    /// The same with services of Debian; needs Debian's mirror
    RealOutage,
    /// The hook for backup proxies on an exchange with 5,000 devices; needs Debian's mirror
    Devices,
    /// A cell of the matrix beside piuparts and autopkgtest on the same packages; needs Debian's mirror
    Peers,
    /// A repository of 1,000 packages beside Debian's own tools; needs Debian's mirror
    Repository,
    /// How long the rollback of a real upgrade to the next Debian takes; needs Debian's mirror
    NextDebian,
    /// How long a real upgrade to the next Debian takes beside bare apt, on disks of 20 us and of 2 ms a flush; needs Debian's mirror
    ReleaseUpgrade,
}

/// How a subject is measured.
enum Measure {
    Once(fn(&mut Sheet<'_>) -> Result<()>),
    OnEachDebian(fn(Debian, &mut Sheet<'_>) -> Result<()>),
}

impl Subject {
    fn measure(self) -> Measure {
        match self {
            Self::Programs => Measure::Once(programs::measure),
            Self::Memory => Measure::OnEachDebian(memory::measure),
            Self::Speed => Measure::OnEachDebian(speed::measure),
            Self::Rollback => Measure::Once(rollback::measure),
            Self::Outage => Measure::OnEachDebian(outage::measure),
            Self::RealOutage => Measure::Once(outage::measure_real),
            Self::Devices => Measure::OnEachDebian(devices::measure),
            Self::Peers => Measure::OnEachDebian(peers::measure),
            Self::Repository => Measure::OnEachDebian(repository::measure),
            Self::NextDebian => Measure::Once(next_debian::measure),
            Self::ReleaseUpgrade => Measure::Once(release_upgrade::measure),
        }
    }

    fn needs_mirror(self) -> bool {
        matches!(
            self,
            Self::RealOutage | Self::Devices | Self::Peers | Self::Repository | Self::NextDebian | Self::ReleaseUpgrade
        )
    }
}

/// Measures these subjects, or all that need no mirror if none is named, and prints the figures. They are also written to
/// `target/bench/results.json`. Fails after the last figure if a limit was exceeded.
pub fn run(subjects: &[Subject], out: &mut dyn Write) -> Result<()> {
    let mut subjects = subjects.to_vec();
    if subjects.is_empty() {
        subjects.extend(Subject::value_variants().iter().filter(|subject| !subject.needs_mirror()));
    }
    let mut sheet = Sheet::new(out);
    for subject in subjects {
        let name = subject.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        match subject.measure() {
            Measure::Once(measure) => {
                sheet.begin(&name, None);
                measure(&mut sheet)?;
            }
            Measure::OnEachDebian(measure) => {
                for debian in Debian::ALL {
                    sheet.begin(&name, Some(debian));
                    measure(debian, &mut sheet)?;
                }
            }
        }
        sheet.save()?;
    }
    let exceeded = sheet.exceeded();
    ensure!(exceeded == 0, "{exceeded} limits were exceeded");
    Ok(())
}
