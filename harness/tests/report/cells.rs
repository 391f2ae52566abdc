//! Records of cells, for the tests of the report.

use std::fs;
use std::path::Path;

use anyhow::Result;
use harness::matrix::record::{Place, Record};
use harness::observe::timeline::{Span, SpanKind};
use harness::packages::shipped::SERVICES;

/// A text that does harm on a page that takes it for more than a text.
pub(crate) const HARMFUL: &str = "</script></pre><img src=x onerror=\"window.harmed = true\">";

/// How many cells [`matrix`] has.
pub(crate) const COUNT: usize = 39;

/// The cells of a matrix that ran: of 40 places one is missing, and two failed.
pub(crate) fn matrix() -> Vec<Record> {
    const STATES: [&str; 4] = ["fresh", "conffile-edited", "package-held", "disk-nearly-full"];
    const FAULTS: [&str; 5] = [
        "hook-fails@pre-upgrade-hooks",
        "maintainer-script-fails@packages",
        "power-cut@packages",
        "mirror-vanishes@download",
        "service-crashes@restart",
    ];
    let mut records = Vec::new();
    for debian in ["bookworm", "trixie"] {
        for from in ["1.2.0", "1.2.1"] {
            records.extend(STATES.map(|state| record("upgrade", from, debian, state, "none")));
        }
        for state in ["fresh", "conffile-edited"] {
            records.extend(FAULTS.map(|fault| record("fault", "1.2.1", debian, state, fault)));
        }
        records
            .extend(["declined", "download-only"].map(|scenario| record(scenario, "1.2.1", debian, "fresh", "none")));
    }
    records.retain(|record| record.cell != "download-only::1.2.1::fresh::none::trixie");
    let fails = |place: &Place| place.fault.starts_with("service") && place.state == "fresh";
    records.iter_mut().filter(|record| fails(&record.place)).for_each(fail);
    records
}

/// Writes records as the cells of the matrix do, each with logs of its own: dpkg's, and one of this many bytes.
pub(crate) fn write(records: &[Record], directory: &Path, log: usize) -> Result<()> {
    for record in records {
        let directory = directory.join(record.cell.replace("::", "--"));
        fs::create_dir(&directory)?;
        fs::write(directory.join("record.json"), serde_json::to_vec(record)?)?;
        let dpkg = SERVICES.map(|name| format!("2026-11-22 15:48:53 upgrade {name}:all 1.2.1 1.2.2\n")).concat();
        fs::write(directory.join("dpkg.log"), format!("{dpkg}{HARMFUL}\n"))?;
        let line = "Nov 22 15:48:53 exchange systemd[1]: Started asterisk.service - Asterisk PBX.\n";
        fs::write(directory.join("journal.log"), line.repeat(log / line.len()))?;
    }
    Ok(())
}

fn record(scenario: &str, from: &str, debian: &str, state: &str, fault: &str) -> Record {
    let answer = if scenario == "declined" { "no" } else { "yes" };
    let [scenario, from, to, debian, state, fault, answer] =
        [scenario, from, "1.2.2", debian, state, fault, answer].map(str::to_owned);
    let cell = format!("{scenario}::{from}::{state}::{fault}::{debian}");
    // Cells take their time, each its own.
    let more = cell.bytes().fold(0_u64, |sum, byte| (sum * 31 + u64::from(byte)) % 9_973);
    Record {
        again: format!("make test FILTER='{cell}'"),
        explanation: vec![
            format!(
                "An exchange at {from} is upgraded to 1.2.2 on Debian {debian}; its state: {state}; what goes wrong: {fault}."
            ),
            "Afterwards either everything is new and every service runs, or everything is as it was.".to_owned(),
        ],
        checked: ["exit code", "every package at 1.2.2", "every service restarted once", "order of hooks", "conffiles"]
            .map(str::to_owned)
            .to_vec(),
        took: 31_000 + more,
        run: 9_310,
        exit: Some(0),
        screen: screen(&from),
        timeline: timeline(),
        logs: ["dpkg.log", "journal.log"].map(str::to_owned).to_vec(),
        cell,
        place: Place { scenario, from, to, debian, state, fault, answer },
        ..Record::default()
    }
}

fn screen(from: &str) -> String {
    let packages = SERVICES.map(|name| format!("  {name:<14} {from} -> 1.2.2\n")).concat();
    let services = SERVICES.map(|name| format!("  {name:<24} OK\n")).concat();
    format!(
        "$ xivo-upgrade\nReading package lists\n\nXiVO installed version: {from}\nXiVO candidate version: 1.2.2\n
XiVO packages to upgrade ({}):\n{packages}
Would you like to upgrade XiVO {from} to 1.2.2 now? [Y/n] y\nDownloading packages\nRunning pre-upgrade hooks\n  10-first: ok
Upgrading packages\nRunning post-upgrade hooks\n  10-first.sh: ok\nRestarting services\n{services}
XiVO is upgraded from {from} to 1.2.2; all {} services are running.\n",
        SERVICES.len(),
        SERVICES.len()
    )
}

fn timeline() -> Vec<Span> {
    const STEPS: [(&str, u64, u64); 10] = [
        ("refresh", 0, 900),
        ("preflight", 900, 1_240),
        ("plan", 1_240, 1_710),
        ("confirm", 1_710, 1_750),
        ("download", 1_750, 2_300),
        ("pre-upgrade-hooks", 2_300, 2_420),
        ("packages", 2_420, 7_100),
        ("post-upgrade-hooks", 7_100, 7_260),
        ("restart", 7_260, 9_000),
        ("verify", 9_000, 9_310),
    ];
    let span = |kind, name: &str, begin, end| Span { kind, name: name.to_owned(), begin, end: Some(end), good: true };
    let mut spans: Vec<Span> = STEPS.map(|(name, begin, end)| span(SpanKind::Step, name, begin, end)).to_vec();
    spans.extend([
        span(SpanKind::Hook, "pre-upgrade/10-first", 2_310, 2_350),
        span(SpanKind::Hook, "pre-upgrade/20-second", 2_350, 2_410),
        span(SpanKind::Hook, "post-upgrade/10-first.sh", 7_110, 7_250),
    ]);
    for (at, name) in (0..).zip(SERVICES) {
        spans.push(span(SpanKind::MaintainerScript, name, 3_100 + at * 180, 3_130 + at * 180));
        spans.push(span(SpanKind::MaintainerScript, name, 5_200 + at * 200, 5_310 + at * 200));
        spans.push(span(SpanKind::Outage, name, 7_270 + at * 210, 7_310 + at * 210));
    }
    spans
}

/// A service that does not come up.
fn fail(record: &mut Record) {
    record.exit = Some(5);
    record.failures = vec![
        "asterisk is not running after the upgrade.".to_owned(),
        "The screen is not that of the snapshot service_crashes.".to_owned(),
    ];
    record.screen = record.screen.replace("asterisk                 OK", "asterisk                 FAILED");
    record.difference = Some(
        "--- service_crashes.snap\n+++ what was seen\n@@ -24,7 +24,7 @@\n   xivo-provd               OK\n   xivo-agid                OK\n\
         -  asterisk                 OK\n+  asterisk                 FAILED\n   xivo-ctid                OK\n   nginx                    OK\n"
            .to_owned(),
    );
    for span in &mut record.timeline {
        if span.kind == SpanKind::Outage && span.name == "asterisk" {
            (span.end, span.good) = (None, false);
        }
        if span.name == "restart" {
            span.good = false;
        }
    }
}
