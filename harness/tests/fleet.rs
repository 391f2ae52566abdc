//! A fleet of machines, upgraded by Ansible with the role in docs/ansible: `make test-fleet`. Every run of the tests checks the role's
//! files.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use documented::{text, tree};
use harness::data::files_below;
use harness::machines::fleet::{Fleet, Line};
use harness::machines::image::Debian;
use harness::machines::transcript::{Transcript, without_times};
use harness::observe::inventory::{SystemState, fingerprint};
use harness::observe::timeline::{Events, Mark};
use harness::packages::shipped::SERVICES;
use libtest_mimic::{Arguments, Failed, Trial};
use yaml_rust2::{Yaml, YamlLoader};

/// A canary, a pair of which the active node is named first, and two shops.
///
/// The inventory says which node of the pair is which. Machines that know it themselves, by the key `node` of `status --json`, need
/// nothing there.
const MACHINES: [Line<'static>; 5] = [
    ("hq-a", "upgrade_node_role=active"),
    ("hq-b", "upgrade_node_role=passive"),
    ("shop-1", ""),
    ("shop-2", ""),
    ("lab", ""),
];

/// In which order they have to be upgraded, two at once.
const ORDER: [&[&str]; 4] = [&["lab"], &["hq-b"], &["shop-1", "shop-2"], &["hq-a"]];
const TWO_AT_ONCE: [&str; 2] = ["-e", "upgrade_serial=2"];

/// A scenario: its name, what a user would lose if it failed, and its function.
type Scenario = (&'static str, &'static str, fn(Debian) -> Result<String>);

const SCENARIOS: [Scenario; 3] = [
    (
        "fleet_in_order",
        "A fleet is upgraded canary first, then in batches, passive nodes before active ones; a second run changes nothing.",
        in_order,
    ),
    (
        "fleet_stops_at_a_failure",
        "Check mode changes nothing, and machines after one that fails are not upgraded.",
        stops_at_a_failure,
    ),
    (
        "fleet_faults",
        "A lost connection is no failed upgrade, the role waits for a run that is under way, and a run that needs attention is reported.",
        faults,
    ),
];

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        Trial::test("role_is_yaml", || result(role_is_yaml())),
        Trial::test("settings_are_described", || result(settings_are_described())),
        Trial::test("no_stale_snapshot", || result(no_stale_snapshot())),
    ];
    for (name, guarantee, run) in SCENARIOS {
        for debian in Debian::ALL {
            let test = move || {
                compare(name, guarantee, &run(debian).map_err(|error| format!("{guarantee}\n{error:?}"))?);
                Ok(())
            };
            trials.push(Trial::test(format!("{name}::{debian}"), test).with_ignored_flag(true));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn result(result: Result<()>) -> Result<(), Failed> {
    result.map_err(|error| format!("{error:?}").into())
}

fn in_order(debian: Debian) -> Result<String> {
    let fleet = Fleet::boot(debian, &MACHINES, "lab")?;
    let marks = MACHINES.map(|(name, _)| Ok((name, Mark::set(&fleet.node(name)?.machine)?)));
    let marks = marks.into_iter().collect::<Result<HashMap<_, _>>>()?;
    let upgraded = fleet.play(&TWO_AT_ONCE)?;
    ensure!(upgraded.exit == 0, "{upgraded}");
    let mut last_restart: Option<u64> = None;
    for batch in ORDER {
        let restarts = batch.iter().map(|name| restarts(&fleet, name, &marks[name])).collect::<Result<Vec<_>>>()?;
        ensure!(
            restarts.iter().all(|(first, _)| Some(*first) > last_restart),
            "{batch:?} began before the batch before it was done: {upgraded}"
        );
        last_restart = restarts.iter().map(|(_, last)| *last).max();
    }
    for (name, _) in MACHINES {
        ensure!(fleet.node(name)?.machine.version("xivo")? == "1.2.2", "{name}: {upgraded}");
        let report = fleet.report(name)?;
        ensure!(report["result"] == "done" && report["plan"]["candidate"] == "1.2.2", "{name}: {report}");
    }
    let before = untouched(&fleet)?;
    let again = fleet.play(&TWO_AT_ONCE)?;
    ensure!(again.exit == 0 && again.screen.matches("changed=0 ").count() == MACHINES.len(), "{again}");
    ensure!(untouched(&fleet)? == before, "the second run has changed something: {again}");
    Ok(format!("{upgraded}\n{}", ending(&again)))
}

fn stops_at_a_failure(debian: Debian) -> Result<String> {
    let fleet = Fleet::boot(debian, &MACHINES, "lab")?;
    let before = untouched(&fleet)?;
    let checked = fleet.play(&["--check"])?;
    ensure!(checked.exit == 0, "{checked}");
    ensure!(untouched(&fleet)? == before, "check mode has changed something: {checked}");
    let plan = fleet.report("hq-a.plan")?;
    ensure!(plan["plan"]["candidate"] == "1.2.2" && plan["detached"] == false, "{plan}");

    hook(&fleet, "lab", "pre-upgrade", "echo 'a call is being recorded'; exit 1")?;
    let canary = fleet.play(&TWO_AT_ONCE)?;
    ensure!(canary.exit == 2, "{canary}");
    ensure!(fleet.report("lab")?["exit_code"] == 1, "{canary}");
    let after = untouched(&fleet)?;
    for ((name, _), (before, after)) in MACHINES.iter().zip(before.iter().zip(&after)) {
        ensure!(*name == "lab" || before == after, "{name} was touched although the canary failed: {canary}");
    }

    // One of two that work at once: the other comes to its end, and its report is there.
    fleet.node("lab")?.machine.sh("rm /etc/xivo-upgrade/pre-upgrade.d/50-trouble")?;
    hook(&fleet, "shop-1", "pre-upgrade", "echo 'the till is open'; exit 1")?;
    let later = fleet.play(&TWO_AT_ONCE)?;
    ensure!(later.exit == 2, "{later}");
    for (name, expected) in [("lab", "1.2.2"), ("hq-b", "1.2.2"), ("shop-1", "1.2.1"), ("shop-2", "1.2.2")] {
        ensure!(fleet.node(name)?.machine.version("xivo")? == expected, "{name}: {later}");
        ensure!(fleet.report(name)?["result"] == if expected == "1.2.2" { "done" } else { "unchanged" }, "{name}");
    }
    ensure!(untouched(&fleet)?.first() == before.first(), "hq-a was touched although shop-1 failed: {later}");
    Ok([checked, canary, later].map(|played| ending(&played)).join("\n"))
}

fn faults(debian: Debian) -> Result<String> {
    let machines = [("busy", ""), ("cut-off", ""), ("wrong", "")];
    let fleet = Fleet::boot(debian, &machines, "cut-off")?;
    hook(&fleet, "cut-off", "pre-upgrade", CUT)?;
    hook(&fleet, "wrong", "post-upgrade", "echo 'the wallboard does not answer'; exit 1")?;
    hook(&fleet, "busy", "pre-upgrade", UNTIL_REFUSED)?;
    let busy = &fleet.node("busy")?.machine;
    busy.sh("xivo-upgrade --yes >/dev/null 2>&1 & until [ -e /var/log/began ]; do sleep 0.05; done")?;
    let played = fleet.play(&[])?;
    ensure!(played.exit == 0, "{played}");
    for (name, _) in machines {
        ensure!(fleet.node(name)?.machine.version("xivo")? == "1.2.2", "{name}: {played}");
    }
    fleet.node("cut-off")?.machine.sh("test -e /var/log/was-cut")?;
    ensure!(fleet.report("wrong")?["exit_code"] == 6, "{played}");
    Ok(played.to_string())
}

/// Every ssh connection is cut in the middle of the upgrade, and for some seconds there is no new one.
const CUT: &str = "set -e
systemd-run --quiet --on-active=4 --timer-property=AccuracySec=100ms systemctl start ssh
systemctl stop ssh
pkill -KILL sshd
touch /var/log/was-cut";

/// A hook of an upgrade that is under way; it ends when Ansible's upgrade was refused.
const UNTIL_REFUSED: &str = "touch /var/log/began
until grep -qs '\"rc\": 7' /root/.ansible_async/*; do sleep 0.05; done";

/// A hook of the admin's own.
fn hook(fleet: &Fleet, name: &str, phase: &str, script: &str) -> Result<()> {
    let path = format!("/etc/xivo-upgrade/{phase}.d/50-trouble");
    fleet.node(name)?.machine.write(&path, format!("#!/bin/sh\n{script}\n").as_bytes(), 0o755)
}

/// What of each machine must not change when the role does not upgrade it: its state, its files and its history of upgrades.
fn untouched(fleet: &Fleet) -> Result<Vec<(SystemState, String, String)>> {
    let of = |(name, _): &Line<'_>| {
        let machine = &fleet.node(name)?.machine;
        let history = machine.sh("ls /var/lib/xivo-upgrade/history 2>/dev/null || :")?;
        Ok((SystemState::of(machine, &SERVICES)?, fingerprint(machine)?, history))
    };
    MACHINES.iter().map(of).collect()
}

/// The first stop and the last start of a machine's services since a mark, in milliseconds since 1970.
fn restarts(fleet: &Fleet, name: &str, mark: &Mark) -> Result<(u64, u64)> {
    let turns = Events::since(mark, &fleet.node(name)?.machine, &SERVICES)?.transitions;
    let (first, last) = turns.first().zip(turns.last()).with_context(|| format!("{name} has not restarted"))?;
    ensure!(!first.up && last.up, "the services of {name} did not come up again");
    Ok((first.time, last.time))
}

/// What is printed of the last batch, or of the one that stops the rest; the batches before it look alike.
fn ending(played: &Transcript) -> String {
    let play = "PLAY [Upgrade batch by batch]";
    let from = played.screen.rfind(play).unwrap_or_default();
    Transcript { screen: format!("[...]\n\n{}", &played.screen[from..]), ..played.clone() }.to_string()
}

/// Where the snapshots are.
const SNAPSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots/fleet");

/// What Ansible printed is the same with the one of each Debian.
fn compare(name: &str, guarantee: &str, document: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(SNAPSHOTS);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(guarantee);
    settings.bind(|| insta::assert_snapshot!(name, without_times(document)));
}

/// Fails for a snapshot that no scenario is compared with, and for a scenario that has none.
fn no_stale_snapshot() -> Result<()> {
    let known: BTreeSet<PathBuf> =
        SCENARIOS.iter().map(|(name, ..)| Path::new(SNAPSHOTS).join(format!("{name}.snap"))).collect();
    let found: BTreeSet<PathBuf> = files_below(Path::new(SNAPSHOTS), &["snap"])?.into_iter().collect();
    ensure!(found == known, "there are {found:?}, and scenarios of {known:?}");
    Ok(())
}

/// A file with a mistake in it would be noticed by the first who uses it.
fn role_is_yaml() -> Result<()> {
    let files = files_below(&tree("docs/ansible"), &["yml"])?;
    ensure!(files.len() > 5, "the role is elsewhere: {files:?}");
    for file in files {
        let documents = YamlLoader::load_from_str(&fs::read_to_string(&file)?);
        let documents = documents.with_context(|| file.display().to_string())?;
        ensure!(documents.len() == 1, "{}: {} documents", file.display(), documents.len());
    }
    Ok(())
}

/// Each setting is in the documentation and in what Ansible checks.
fn settings_are_described() -> Result<()> {
    let keys = |yaml: &Yaml| -> Result<BTreeSet<String>> {
        let map = yaml.as_hash().context("not a mapping")?;
        Ok(map.keys().filter_map(|key| key.as_str().map(str::to_owned)).collect())
    };
    let read = |path: &str| -> Result<Yaml> {
        YamlLoader::load_from_str(&text(path))?.pop().with_context(|| format!("{path} is empty"))
    };
    let specified = read("docs/ansible/roles/upgrade/meta/argument_specs.yml")?;
    let specified = keys(&specified["argument_specs"]["main"]["options"])?;
    let mut settings = keys(&read("docs/ansible/roles/upgrade/defaults/main.yml")?)?;
    // What has no default: the machine knows.
    settings.insert("upgrade_node_role".to_owned());
    ensure!(specified == settings, "checked: {specified:?}; there are: {settings:?}");
    let page = text("docs/fleet.md");
    let missing: Vec<_> = settings.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    ensure!(missing.is_empty(), "docs/fleet.md lacks {missing:?}");
    Ok(())
}
