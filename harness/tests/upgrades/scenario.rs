//! The list of scenarios, and the snapshots that belong to them.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use harness::data::files_below;
use harness::machines::image::Debian;
use harness::machines::transcript::without_times;
use libtest_mimic::{Failed, Trial};

/// A test of an upgrade on a machine.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    /// Its name, and that of its snapshot.
    pub(crate) name: &'static str,
    /// What a user would lose if it failed.
    pub(crate) guarantee: &'static str,
    /// Runs it on a release of Debian.
    pub(crate) run: Run,
}

/// How a scenario is judged.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// By itself.
    Checked(fn(Debian) -> Result<()>),
    /// Also by a snapshot of what it returns, which is the same on every release of Debian.
    Compared(fn(Debian) -> Result<String>),
}

/// The scenarios of a file: the guarantee of each, how it is judged, and its function, after which it is named.
macro_rules! scenarios {
    ($($(#[doc = $guarantee:literal])+ $judged:ident $run:ident;)+) => {
        pub(crate) const SCENARIOS: &[$crate::scenario::Scenario] = &[$($crate::scenario::Scenario {
            name: stringify!($run),
            guarantee: concat!($($guarantee),+).trim_ascii(),
            run: $crate::scenario::Run::$judged($run),
        }),+];
    };
}

pub(crate) use scenarios;

/// Where the snapshots are.
const SNAPSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots");

/// Scenarios that depend on what differs between releases of Debian: systemd and its helpers, PostgreSQL, libraries. How apt verifies
/// signatures differs as well; cells of the matrix test that.
pub(crate) const ON_ALL: [&str; 4] = ["machine_is_realistic", "upgrade", "replaced_library", "database"];

/// A scenario as tests, one for each release of Debian. Every run of the tests runs those of [`ON_ALL`] on all releases, and each other
/// one on a release that its name decides. The rest counts as ignored; `make all-debians` runs all.
pub(crate) fn trials(scenario: &Scenario) -> Vec<Trial> {
    let scenario = *scenario;
    let turn = scenario.name.bytes().map(usize::from).sum::<usize>() % Debian::ALL.len();
    let trial = |(index, debian)| {
        let chosen = index == turn || ON_ALL.contains(&scenario.name);
        let trial = Trial::test(format!("{}::{debian}", scenario.name), move || test(scenario, debian));
        trial.with_ignored_flag(!chosen)
    };
    Debian::ALL.into_iter().enumerate().map(trial).collect()
}

fn test(scenario: Scenario, debian: Debian) -> Result<(), Failed> {
    let failed = |error: anyhow::Error| format!("{}\n{error:?}", scenario.guarantee);
    let document = match scenario.run {
        Run::Checked(run) => return Ok(run(debian).map_err(failed)?),
        Run::Compared(run) => without_times(&run(debian).map_err(failed)?),
    };
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(SNAPSHOTS);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(scenario.guarantee);
    settings.bind(|| insta::assert_snapshot!(scenario.name, document));
    Ok(())
}

/// Fails for a snapshot that no scenario is compared with, and for a scenario that has none.
pub(crate) fn no_stale_snapshot(scenarios: &[Scenario]) -> Result<(), Failed> {
    let compared = scenarios.iter().filter(|scenario| matches!(scenario.run, Run::Compared(_)));
    let known: BTreeSet<String> = compared.map(|scenario| format!("{}.snap", scenario.name)).collect();
    // Directories below have the snapshots of the matrix and of fleets.
    let directory = Path::new(SNAPSHOTS);
    let paths = files_below(directory, &["snap"])?.into_iter().filter(|path| path.parent() == Some(directory));
    let found: BTreeSet<String> = paths.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    let stale: Vec<_> = found.difference(&known).collect();
    let missing: Vec<_> = known.difference(&found).collect();
    if stale.is_empty() && missing.is_empty() {
        return Ok(());
    }
    Err(format!("snapshots/ has files that no scenario uses: {stale:?}, and lacks: {missing:?}").into())
}
