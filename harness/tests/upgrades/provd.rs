//! XiVO's own hooks, on machines with a realistic provd and asterisk.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use harness::machines::database::CALLS;
use harness::machines::exchange::{self, HOOKS, PROVD, run_hook};
use harness::machines::image::Debian;
use harness::machines::machine::Machine;
use harness::machines::transcript::Transcript;
use harness::machines::world::World;
use harness::observe::inventory::SystemState;
use harness::observe::timeline::{Events, Mark};
use harness::packages::package::Package;
use harness::packages::shipped::SERVICES;

use crate::scenario::scenarios;

scenarios! {
    /// A machine with the real database and web server and a realistic provd and asterisk is upgraded with its data, and the phones are reconfigured.
    Compared exchange;
    /// XiVO's hooks are idempotent: a second run writes nothing, neither to provd nor to a file.
    Compared hooks_run_twice;
    /// With many devices each gets its backup proxy and loses it again, and no device is written twice.
    Checked many_devices;
    /// A provd that is stopped, fails, stalls or truncates its answers blocks nothing and leaves
    /// no half-written configuration, and the screen names what to repeat.
    Compared faulty_provd;
    /// On a passive node, and where provd is disabled, the hooks do nothing and succeed.
    Compared hooks_of_other_nodes;
}

fn exchange(debian: Debian) -> Result<String> {
    let world = exchange::upgradable(debian)?;
    let machine = &world.machine;
    let calls = data(machine)?;
    ensure!(calls.starts_with(&format!("{CALLS}|")), "{calls}");
    let processes = "systemctl show --property=MainPID --value 'postgresql@*' nginx";
    let before = machine.sh(processes)?;
    let mark = Mark::set(machine)?;
    let transcript = world.upgrade(&[]).answer("[Y/n] ", "y\n").exits(0)?;

    let happened = Events::since(&mark, machine, &SERVICES)?;
    ensure!(happened.restart_order() == SERVICES, "{happened}");
    ensure!(happened.starts.len() == SERVICES.len(), "each was restarted once: {happened}");
    let state = SystemState::of(machine, &SERVICES)?;
    ensure!(state.unfinished.is_empty() && state.packages["xivo"] == "1.2.2", "{state:?}");
    for (name, service) in &state.services {
        let version = if ["postgresql", "nginx"].contains(&name.as_str()) { "" } else { "1.2.2" };
        ensure!(service.state == "active" && service.version == version, "{name}: {service:?}");
    }
    // The real services are new processes, and answer.
    let after = machine.sh(processes)?;
    ensure!(before.lines().zip(after.lines()).all(|(before, after)| before != after || before.is_empty()), "{after}");
    ensure!(data(machine)? == calls, "the data changed");
    machine.sh("python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1/\")'")?;
    let booted = machine.sh(
        "journalctl --sync; journalctl --quiet --boot --output=cat _SYSTEMD_UNIT=asterisk.service + UNIT=xivo-ctid.service \
         | grep -E '^(Asterisk Ready|Start(ing|ed) xivo-ctid)' | tail -3",
    )?;
    ensure!(
        booted.starts_with("Asterisk Ready.\nStarting xivo-ctid"),
        "the upgrade did not wait for asterisk: {booted}"
    );
    Ok(format!("{transcript}\n{happened}\nprovd was asked:\n{}\n{}", requests(machine)?, changed(machine)?))
}

fn hooks_run_twice(debian: Debian) -> Result<String> {
    let world = exchange::upgradable(debian)?;
    let machine = &world.machine;
    let files = format!(
        "find /etc/pf-xivo /etc/xivo {PROVD}/jsondb /usr/share/xivo-upgrade -printf '%p %i %m %u %s %C@\\n' | LC_ALL=C sort"
    );
    let mut shown = String::new();
    for hook in HOOKS {
        let first = run_hook(machine, hook)?;
        ensure!(first.exit == 0, "{first}");
        write!(shown, "{first}{}", requests(machine)?)?;
        let before = machine.sh(&files)?;
        let second = run_hook(machine, hook)?;
        let asked = requests(machine)?;
        ensure!(second.exit == 0 && !asked.contains("PUT") && !asked.contains("POST"), "{second}{asked}");
        ensure!(machine.sh(&files)? == before, "{hook} wrote files the second time");
        writeln!(shown, "{second}{asked}")?;
    }
    // The machine is in no pair any more.
    machine.write("/etc/xivo/ha.conf", br#"{"node_type": "disabled", "remote_address": ""}"#, 0o644)?;
    for _ in 0..2 {
        write!(shown, "{}{}", run_hook(machine, HOOKS[1])?, requests(machine)?)?;
    }
    Ok(shown + "\n" + &changed(machine)?)
}

fn many_devices(debian: Debian) -> Result<()> {
    exchange::change_devices(&exchange::upgradable(debian)?.machine, 500)?;
    Ok(())
}

/// Short timeouts, so that the scenario is quick.
const IMPATIENT: &[u8] = b"[provd]\ncome-up-timeout = 1\nanswer-timeout = 1\nreconfigure-timeout = 1\n";

fn faulty_provd(debian: Debian) -> Result<String> {
    let mut world = exchange::upgradable(debian)?;
    world.machine.write("/etc/xivo-upgrade/hooks.toml", IMPATIENT, 0o644)?;
    let configs = format!("cd {PROVD}/jsondb/configs && sha256sum *");
    let before = world.machine.sh(&configs)?;
    let mut shown = String::new();
    let troubles = [
        ("provd is stopped:", None),
        ("provd answers 500:", Some(r#"[{"method": "PUT", "id": "base|device0002", "fault": 500}]"#)),
        ("provd stalls:", Some(r#"[{"method": "PUT", "id": "base|device0002", "fault": "stall"}]"#)),
        // The list has no name of its own.
        ("provd's answers are cut in half:", Some(r#"[{"method": "GET", "id": "base|", "fault": "cut"}]"#)),
    ];
    for (number, (what, fault)) in troubles.into_iter().enumerate() {
        let version = format!("1.2.{}", number + 3);
        world.publish([&next(&version)?])?;
        let machine = &world.machine;
        match fault {
            Some(fault) => machine.write(&format!("{PROVD}/faults.json"), fault.as_bytes(), 0o644)?,
            None => drop(machine.sh("systemctl stop xivo-provd")?),
        }
        let transcript = world.upgrade(&["--yes"]).exits(6)?;
        ensure!(SystemState::of(machine, &SERVICES)?.packages["xivo"] == version, "{transcript}");
        // Written configurations are complete, and the others are unchanged.
        machine.sh(&format!(
            "cd {PROVD}/jsondb/configs && for file in *; do python3 -m json.tool $file >/dev/null; done"
        ))?;
        for name in ["base", "device0002"] {
            let line = |text: &str| text.lines().find(|line| line.ends_with(&format!("  {name}"))).map(str::to_owned);
            ensure!(line(&machine.sh(&configs)?) == line(&before), "{name} was written: {transcript}");
        }
        write!(shown, "{what}\n{}\n", hooks_shown(&world, &transcript)?)?;
    }
    // provd is repaired, and the hooks run as the screen said.
    world.machine.sh(&format!("rm {PROVD}/faults.json"))?;
    for hook in HOOKS {
        write!(shown, "{}", run_hook(&world.machine, hook)?)?;
    }
    Ok(shown + "\n" + &changed(&world.machine)?)
}

fn hooks_of_other_nodes(debian: Debian) -> Result<String> {
    let world = exchange::upgradable(debian)?;
    let machine = &world.machine;
    machine.write("/etc/xivo/ha.conf", br#"{"node_type": "slave", "remote_address": "192.0.2.10"}"#, 0o644)?;
    machine.sh("systemctl disable --quiet --now xivo-provd; rm /etc/pf-xivo/web-interface/xivo.ini")?;
    let transcript = world.upgrade(&["--yes"]).exits(0)?;
    let mut shown = hooks_shown(&world, &transcript)?;
    for hook in HOOKS {
        write!(shown, "\n{}", run_hook(machine, hook)?)?;
    }
    Ok(shown)
}

/// A metapackage with a new version.
fn next(version: &str) -> Result<Package> {
    let packages = exchange::release("1.2.2")?.packages;
    let mut xivo = packages.into_iter().find(|package| package.name == "xivo").context("no xivo")?;
    version.clone_into(&mut xivo.version);
    Ok(xivo)
}

/// The number of rows in the database, and a sum of them.
fn data(machine: &Machine) -> Result<String> {
    machine.sh("runuser -u postgres -- psql -XAtq --dbname=asterisk \
         --command=\"SELECT count(*), md5(string_agg(id || caller, ',' ORDER BY id)) FROM calls\"")
}

/// The requests to provd since the last call.
fn requests(machine: &Machine) -> Result<String> {
    machine.sh(&format!("cd {PROVD}; touch requests.log; sed 's/^/  /' requests.log; rm requests.log"))
}

/// What the hooks change: the base, a device with two lines, the web interface.
fn changed(machine: &Machine) -> Result<String> {
    machine.sh(&format!(
        "cd {PROVD}/jsondb/configs
        echo base; python3 -m json.tool base | grep phonebook
        echo device0001; python3 -m json.tool device0001 | grep _ip
        echo xivo.ini; grep -E 'language|territory' /etc/pf-xivo/web-interface/xivo.ini"
    ))
}

/// The part of the screen that is about the hooks, and the end.
fn hooks_shown(world: &World, transcript: &Transcript) -> Result<String> {
    let text = world.redacted(&transcript.to_string());
    let (_, rest) = text.split_once("Running post-upgrade hooks\n").with_context(|| text.clone())?;
    let (hooks, rest) = rest.split_once("Restarting services\n").with_context(|| text.clone())?;
    let (_, end) = rest.split_once("\n\n").with_context(|| text.clone())?;
    Ok(format!("Running post-upgrade hooks\n{hooks}…\n\n{end}"))
}
