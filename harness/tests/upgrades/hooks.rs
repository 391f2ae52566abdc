//! Order, environment and faults of hooks.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::{marking_hook, upgradable};
use harness::machines::world::World;
use harness::observe::timeline::{Events, Mark};
use harness::packages::package::Package;
use harness::packages::shipped::SERVICES;

use crate::scenario::scenarios;

scenarios! {
    /// Hooks run in order in a fixed environment; files that are no hooks are skipped and named; no
    /// hook can ask a question or block the run with a background process.
    Compared hooks_of_all_kinds;
    /// A hook that hangs is killed with all its processes, binary output corrupts neither screen nor log, and the other hooks and the restarts follow.
    Compared faulty_hooks;
}

/// Where the shipped hooks are, and the admin's own.
const SHIPPED: &str = "/usr/share/xivo-upgrade";
const LOCAL: &str = "/etc/xivo-upgrade";

fn hook(world: &World, path: &str, script: &str) -> Result<()> {
    world.machine.write(path, format!("#!/bin/sh\n{script}\n").as_bytes(), 0o755)
}

/// The screen from the hooks of the first phase on; other scenarios compare what comes before.
fn from_the_hooks(screen: &str) -> Result<String> {
    let (_, end) = screen.split_once("Running pre-upgrade hooks\n").context("no hooks")?;
    Ok(format!("Running pre-upgrade hooks\n{end}"))
}

fn hooks_of_all_kinds(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let pre = |name: &str| format!("{SHIPPED}/pre-upgrade.d/{name}");
    let post = |name: &str| format!("{SHIPPED}/post-upgrade.d/{name}");
    let local = format!("{LOCAL}/pre-upgrade.d/05-local");
    world.machine.write(&local, marking_hook().as_bytes(), 0o755)?;
    world.machine.write(&format!("{LOCAL}/pre-upgrade.d/README"), b"Put your own hooks here.\n", 0o644)?;
    hook(&world, &pre("30-other-hardware"), "exit 75")?;
    world.machine.write(&pre("35-forgotten-chmod"), b"#!/bin/sh\nexit 1\n", 0o644)?;
    world.machine.sh(&format!("ln -s /opt/nowhere {}", pre("40-dangling")))?;
    hook(&world, &pre("50-environment"), "tr '\\0' '\\n' </proc/$$/environ | sort >/root/environment")?;
    let curious =
        "{ wc -c; if (: </dev/tty); then echo terminal; else echo no terminal; fi; } >/root/curious 2>/dev/null";
    hook(&world, &pre("55-curious"), curious)?;
    // The daemon keeps the hook's output open.
    hook(&world, &post("50-daemon"), "sleep 1000 &\necho $! >/root/daemon")?;
    hook(&world, &post("60-flood"), "yes all work and no play | head -c 100000000")?;

    let mark = Mark::set(&world.machine)?;
    let transcript =
        world.upgrade(&[]).env("SECRET", "sesame").env("PERL5LIB", "/root").answer("[Y/n] ", "y\n").exits(0)?;
    let happened = Events::since(&mark, &world.machine, &SERVICES)?;
    let curious = world.machine.sh("cat /root/curious")?;
    ensure!(curious == "0\nno terminal\n", "a hook had a stdin or a terminal:\n{curious}");
    world.machine.sh("kill -0 $(cat /root/daemon)").context("the daemon is gone")?;
    // The hook printed 100 MB.
    for (file, most) in [("/var/log/xivo-upgrade.log", 8_000_000), ("/run/xivo-upgrade.events", 12_000_000)] {
        let size: u64 = world.machine.sh(&format!("stat -c %s {file}"))?.trim().parse()?;
        ensure!(size < most, "{file} has {size} bytes");
    }
    let log = world.machine.sh("grep -c '60-flood: all work and no play$' /var/log/xivo-upgrade.log")?;
    ensure!(log.trim().parse::<u64>()? > 1000, "nothing of the flood is in the log: {log}");
    world.machine.sh("grep -q '60-flood: … and more' /var/log/xivo-upgrade.log")?;
    world.machine.sh("test ! -e /usr/sbin/policy-rc.d")?;

    let environment = world.machine.sh("sed 's/^/  /' /root/environment")?;
    // A process that a hook has left does not block the next upgrade.
    let mut world = world;
    world.publish([&Package::new("xivo-sounds", "1.2.3")])?;
    world.machine.sh(&format!("rm {}", post("60-flood")))?;
    let again = world.upgrade(&["--yes"]).exits(0)?;
    ensure!(again.screen.contains("The upgrade continues in the background"), "{again}");

    let mut shown = from_the_hooks(&transcript.screen)?;
    writeln!(shown, "\n{happened}\nThe environment of a hook:")?;
    shown.push_str(&environment);
    Ok(shown)
}

fn faulty_hooks(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    world.machine.write(&format!("{LOCAL}/config.toml"), b"[time-limits]\nhook = \"2s\"\n", 0o644)?;
    let post = |name: &str| format!("{SHIPPED}/post-upgrade.d/{name}");
    // The hook and its child ignore SIGTERM.
    let hangs = "trap '' TERM\necho $$ >/root/hangs\nsh -c \"trap '' TERM; sleep 1000\" &\necho $! >>/root/hangs\nwait";
    hook(&world, &post("12-hangs"), hangs)?;
    let rubbish =
        "printf '\\033[2J\\033[31mred\\033[0m \\007bell\\r\\n\\000\\377\\376 binary \\033]0;title\\007\\n'\nexit 3";
    hook(&world, &post("13-rubbish"), rubbish)?;
    let mark = Mark::set(&world.machine)?;
    let transcript = world.upgrade(&["--yes"]).at_terminal().exits(6)?;
    let happened = Events::since(&mark, &world.machine, &SERVICES)?;
    ensure!(happened.restart_order() == SERVICES, "{happened}");
    let alive = "for process in $(cat /root/hangs); do kill -0 $process 2>/dev/null && echo $process || :; done";
    let left = world.machine.sh(alive)?;
    ensure!(left.is_empty(), "these processes of the hook still run: {left}");
    let unclean = world.machine.sh("LC_ALL=C grep -c '[[:cntrl:]]' /var/log/xivo-upgrade.log || :")?;
    ensure!(unclean.trim() == "0", "the log has control characters");
    world.machine.sh("iconv -f UTF-8 -t UTF-8 /var/log/xivo-upgrade.log >/dev/null")?;
    world.machine.sh("test ! -e /usr/sbin/policy-rc.d")?;
    let log = world.machine.sh("sed -n 's/^[^ ]* 13-rubbish: /  /p' /var/log/xivo-upgrade.log")?;
    let screen = from_the_hooks(&transcript.screen)?;
    Ok(format!("{screen}\nWhat the log has of 13-rubbish:\n{log}\n{happened}"))
}
