//! The output on a terminal, in a file and on stdout.

use anyhow::{Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::upgradable;
use harness::machines::world::World;
use harness::observe::inventory::SystemState;
use harness::packages::shipped::SERVICES;
use upgrader::model::report::{Report, RunResult};

use crate::scenario::scenarios;

scenarios! {
    /// A terminal shows a progress bar that is gone at the end; other outputs get plain lines, and --quiet prints none.
    Checked screens;
    /// With --json stdout is one JSON document and nothing else, however the run ends.
    Checked json;
}

/// What a command prints on stdout alone, and its exit code in the last line.
fn stdout_of(world: &World, arguments: &str) -> Result<(String, i64)> {
    let script = format!("set +e; xivo-upgrade {arguments} 2>/root/stderr </dev/null; echo $?");
    let seen = world.machine.sh(&script)?;
    let (document, exit) = seen.trim_end().rsplit_once('\n').unwrap_or_default();
    Ok((document.to_owned(), exit.parse()?))
}

fn json(debian: Debian) -> Result<()> {
    let world = upgradable(debian)?;
    let report = |arguments: &str, exit: i64| -> Result<Report> {
        let (document, seen) = stdout_of(&world, arguments)?;
        let report: Report = serde_json::from_str(&document)
            .map_err(|error| anyhow::anyhow!("`{arguments}` printed no JSON document ({error}):\n{document}"))?;
        ensure!(seen == exit && report.exit_code.map(i64::from) == Some(exit), "{arguments}: {seen}, not {exit}");
        Ok(report)
    };
    let planned = report("--dry-run --json", 0)?;
    let plan = planned.plan.unwrap_or_default();
    ensure!(planned.result == RunResult::Done && plan.candidate == "1.2.2" && plan.changes.len() == 10, "{plan:?}");
    ensure!(report("--json", 3)?.result == RunResult::Declined);
    ensure!(
        world.machine.sh("cat /root/stderr")?.contains("Would you like to upgrade"),
        "the question is not on stderr"
    );
    let nothing = report("attach --json", 1)?;
    ensure!(nothing.error.is_some_and(|error| error.contains("no upgrade is under way")));

    let done = report("--yes --json", 0)?;
    ensure!(done.result == RunResult::Done && done.ended.is_some() && done.error.is_none(), "{done:?}");
    let services: Vec<&str> = done.services.iter().map(|service| service.name.as_str()).collect();
    ensure!(services == SERVICES && done.services.iter().all(|service| service.up), "{services:?}");
    let hooks: Vec<&str> = done.hooks.iter().map(|hook| hook.name.as_str()).collect();
    ensure!(hooks == ["10-first", "20-second", "10-first.sh", "20-second"], "{hooks:?}");
    ensure!(report("--yes --json --quiet", 0)?.message.contains("Nothing to upgrade"));
    let (history, _) = stdout_of(&world, "history --json")?;
    ensure!(serde_json::from_str::<Vec<Report>>(&history)? == [done], "{history}");

    world.machine.sh("echo 'Types: deb\nURIs: file:/nowhere\nSuites: gone' >/etc/apt/sources.list.d/gone.sources")?;
    let failed = report("--yes --json", 1)?;
    ensure!(failed.result == RunResult::Unchanged && failed.error.is_some(), "{failed:?}");
    Ok(())
}

fn screens(debian: Debian) -> Result<()> {
    let world = upgradable(debian)?;
    let mut live = Vec::new();
    let fetched = world.upgrade(&["--download-only"]).at_terminal().live(&mut live).run()?;
    let live = String::from_utf8_lossy(&live).into_owned();
    ensure!(fetched.exit == 0 && !fetched.screen.contains('%'), "a bar is left: {fetched}");
    ensure!(live.contains("\r[") && live.contains(" %  ") && live.contains("\r\u{1b}[K"), "no bar: {live:?}");
    for (variable, value) in [("TERM", "dumb"), ("NO_COLOR", "1")] {
        let mut live = Vec::new();
        let plain = world.machine.command(&["env", &format!("{variable}={value}"), "xivo-upgrade", "--dry-run"]);
        let plain = plain.at_terminal().live(&mut live).run()?;
        let live = String::from_utf8_lossy(&live).into_owned();
        ensure!(plain.exit == 0 && !live.contains("\u{1b}[3"), "coloured: {live:?}");
        ensure!(variable != "TERM" || !live.contains('\u{1b}'), "not dumb: {live:?}");
    }
    let mut live = Vec::new();
    let quiet = world.upgrade(&["--quiet", "--yes"]).at_terminal().live(&mut live).run()?;
    let live = String::from_utf8_lossy(&live).into_owned();
    let end = "XiVO is upgraded from 1.2.1 to 1.2.2; all 8 services are running.\n";
    ensure!(quiet.exit == 0 && quiet.screen.trim_start().starts_with(end) && !live.contains('%'), "{quiet}{live:?}");
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.packages["xivo"] == "1.2.2", "{quiet}");
    Ok(())
}
