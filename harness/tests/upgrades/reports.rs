//! Status, history, notification and JSON after a run.

use anyhow::{Context as _, Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::upgradable;
use harness::machines::transcript::Transcript;
use harness::packages::package::Package;
use harness::packages::shipped::SERVICES;
use serde_json::Value;

use crate::scenario::scenarios;

scenarios! {
    /// After an upgrade, the status, the history, the journal and the notification command agree about it.
    Compared status_and_history;
    /// A failed run is never recorded, reported or mailed as a successful one.
    Compared report_of_a_failure;
    /// A program can read the plan: stdout is one JSON document, and nothing is changed.
    Compared plan_as_json;
}

/// A notification command: one line for the subject of a mail, and the result for its body.
const NOTIFY: &[u8] = b"#!/bin/sh
# A mail would have the summary as its subject and the report as its body.
{ echo \"$UPGRADE_RESULT $UPGRADE_EXIT_CODE: $UPGRADE_SUMMARY\"; grep -E '^  \"(result|exit_code)\"'; } >/root/notified
";
const SETTINGS: &[u8] = b"[notify]\ncommand = [\"/root/notify\"]\n";

fn status_and_history(debian: Debian) -> Result<String> {
    let mut world = upgradable(debian)?;
    let machine = &world.machine;
    machine.write("/root/notify", NOTIFY, 0o755)?;
    machine.write("/etc/xivo-upgrade/config.toml", SETTINGS, 0o644)?;
    let before = world.upgrade(&["status"]).user("nobody").run()?;
    let nothing = world.upgrade(&["history"]).user("nobody").run()?;
    let upgrade = world.upgrade(&["--yes", "--quiet"]).exits(0)?;
    // The worker sends the notification after the end of the run, and holds the lock while it does.
    world.machine.sh("while ! flock --nonblock /run/xivo-upgrade.lock true; do sleep 0.05; done")?;
    let notified = world.machine.sh("cat /root/notified")?;

    let status = world.upgrade(&["status"]).run()?;
    let history = world.upgrade(&["history"]).run()?;
    let json = document(&world.upgrade(&["history", "--json"]).run()?.screen)?;
    let services = json[0]["services"].as_array().context("no services")?;
    ensure!(services.len() == SERVICES.len() && services.iter().all(|service| service["up"] == true), "{json}");
    ensure!(json[0]["result"] == "done" && json[0]["exit_code"] == 0 && json[0]["schema"] == 1, "{json}");
    ensure!(json[0]["plan"]["candidate"] == "1.2.2" && json[0]["hooks"][0]["name"] == "10-first", "{json}");
    let journal = world.machine.sh(
        "journalctl --sync; journalctl --quiet --output=cat SYSLOG_IDENTIFIER=xivo-upgrade UPGRADE_SERVICE=asterisk
        journalctl --quiet --output=cat SYSLOG_IDENTIFIER=xivo-upgrade UPGRADE_EXIT_CODE=0 | head -1",
    )?;
    ensure!(
        journal.starts_with("asterisk is up after ") && journal.contains("finished with exit code 0: XiVO"),
        "{journal}"
    );

    // The next plan shows the duration of the last run.
    world.publish([&Package::new("xivo-sounds", "1.2.3")])?;
    let next = world.upgrade(&["--dry-run"]).run()?;
    let (_, next) = next.screen.split_once("Services to restart").context("no plan")?;
    Ok(format!(
        "{before}\n{nothing}\n{upgrade}\n{}\n{}\nthe notification:\n{notified}\n…{next}",
        without_numbers(&status),
        without_numbers(&history)
    ))
}

fn report_of_a_failure(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    world.machine.write("/root/notify", NOTIFY, 0o755)?;
    let settings = [b"rollback = \"ask\"\n", SETTINGS].concat();
    world.machine.write("/etc/xivo-upgrade/config.toml", &settings, 0o644)?;
    let broken = b"[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo no licence; exit 1'\n";
    world.machine.write("/etc/systemd/system/xivo-agid.service.d/broken.conf", broken, 0o644)?;
    world.upgrade(&["--yes", "--json"]).exits(5)?;
    world.machine.sh("while ! flock --nonblock /run/xivo-upgrade.lock true; do sleep 0.05; done")?;
    let notified = world.machine.sh("cat /root/notified")?;
    let json = document(&world.upgrade(&["history", "--json"]).run()?.screen)?;
    ensure!(json[0]["result"] == "needs-human" && json[0]["exit_code"] == 5, "{json}");
    let error = json[0]["error"].as_str().context("no error")?;
    let status = world.upgrade(&["status"]).exits(6)?;
    world.machine.sh("rm -r /etc/systemd/system/xivo-agid.service.d; systemctl daemon-reload")?;
    world.machine.sh("systemctl restart xivo-agid")?;
    world.upgrade(&["status"]).exits(0)?;
    world.upgrade(&["--yes"]).exits(0)?;
    Ok(format!("the notification:\n{notified}\nthe report's error:\n{error}\n\n{}", without_numbers(&status)))
}

fn plan_as_json(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    world.machine.sh("echo 'language = de' >/etc/xivo/xivo.conf")?;
    let json = document(&world.machine.sh("xivo-upgrade --dry-run --json 2>/root/screen")?)?;
    ensure!(json["result"] == "done" && json["exit_code"] == 0, "{json}");
    ensure!(world.machine.sh("cat /root/screen")?.contains("This was a dry run"), "the screen is not on stderr");
    let mut plan = json["plan"].clone();
    // Sizes and conffiles' packages are in it; the sizes depend on how the packages are packed.
    ensure!(plan["download"].as_u64().is_some_and(|bytes| bytes > 1000), "{plan}");
    plan["download"] = Value::Null;
    Ok(format!("{}\n", serde_json::to_string_pretty(&plan)?))
}

/// A screen that is one JSON document.
fn document(screen: &str) -> Result<Value> {
    serde_json::from_str(screen).with_context(|| format!("this is not one JSON document:\n{screen}"))
}

/// A screen without its numbers: times and durations are never the same.
fn without_numbers(transcript: &Transcript) -> String {
    let versions = "  1.2.1 -> 1.2.2  ";
    let zeros = |text: &str| text.replace(|character: char| character.is_ascii_digit(), "0");
    let line = |line: &str| match line.split_once(versions) {
        Some((time, durations)) => {
            let mut durations = zeros(durations);
            while durations.contains("00") {
                durations = durations.replace("00", "0");
            }
            format!("{}{versions}{durations}\n", zeros(time))
        }
        None => format!("{line}\n"),
    };
    transcript.to_string().lines().map(line).collect()
}
