//! Upgrades that continue in the background: Ctrl-C, lost terminals, attach.

use anyhow::{Context as _, Result, ensure};
use harness::at_once::both;
use harness::machines::image::Debian;
use harness::machines::product_machine::upgradable;
use harness::machines::transcript::{HUNG_UP, Transcript};
use harness::machines::world::World;
use harness::observe::inventory::SystemState;
use harness::packages::package::Package;
use harness::packages::repository_fault::{Affected, RepositoryFault, ServerFault};
use harness::packages::shipped::SERVICES;

use crate::nothing_changed::snapshot;
use crate::rollback::is_at;
use crate::scenario::scenarios;

scenarios! {
    /// Ctrl-C while packages change only detaches: the upgrade completes, and `attach` or a second start shows it again.
    Compared ctrl_c_detaches;
    /// An upgrade completes after its terminal or the whole session is lost, can be followed from another terminal, and its log is complete.
    Checked terminal_lost;
    /// Killing the process that displays an upgrade does not interrupt the upgrade.
    Checked foreground_killed;
    /// Ctrl-C before or at the question, or during --download-only, ends the run at once: nothing
    /// is changed, no process is left, and the next start finds no lock.
    Checked ctrl_c_before_the_work;
    /// No program of another user has the admin's terminal: while the plan is made, while a worker upgrades, and while an upgrade runs at the
    /// terminal because systemd-run fails.
    Checked no_program_has_the_terminal;
    /// Where systemd-run fails, the started program does the work itself and ignores Ctrl-C and a lost terminal.
    Checked without_systemd_run;
}

/// A post-upgrade hook in which an upgrade waits until the test lets it continue.
const WAITING: &str = "#!/bin/sh\ntouch /root/waiting\nuntil test -e /root/go; do sleep 0.1; done\n";

/// Runs something on the machine while a command runs there.
pub(crate) fn while_running<T>(
    command: impl FnOnce() -> Result<Transcript> + Send,
    act: impl FnOnce() -> Result<T>,
) -> Result<(Transcript, T)> {
    let (transcript, acted) = both(command, act);
    Ok((transcript?, acted?))
}

fn upgradable_and_waiting(debian: Debian) -> Result<World> {
    let world = upgradable(debian)?;
    world.machine.write("/etc/xivo-upgrade/post-upgrade.d/99-wait", WAITING.as_bytes(), 0o755)?;
    Ok(world)
}

/// Lets a waiting upgrade continue, follows it to its end, and checks that it did everything once.
fn follow_to_the_end(world: &World) -> Result<Transcript> {
    world.machine.sh("touch /root/go")?;
    let attached = world.upgrade(&["attach"]).exits(0)?;
    ensure!(attached.screen.contains(" 1.2.2; all 8 services are running.\n"), "{attached}");
    is_at(world, "1.2.2")?;
    let log = world.machine.sh("cat /var/log/xivo-upgrade.log")?;
    for step in ["refresh", "confirm", "download", "packages", "post-upgrade hooks", "restart", "verify"] {
        for event in ["began", "ended"] {
            let line = format!(" step {step} {event}\n");
            ensure!(log.matches(&line).count() == 1, "{line:?} is not there once:\n{log}");
        }
    }
    ensure!(log.contains(" finished with exit code 0: ") && !log.contains("interrupted"), "{log}");
    ensure!(log.contains("apt-get: Setting up xivo (1.2.2)"), "the output of apt is missing:\n{log}");
    Ok(attached)
}

fn ctrl_c_detaches(debian: Debian) -> Result<String> {
    let world = upgradable_and_waiting(debian)?;
    let left = world
        .upgrade(&[])
        .env("TERM", "dumb")
        .answer("[Y/n] ", "y\n")
        .answer("  20-second: ok\nUpgrading packages\n", "\u{3}")
        .exits(7)?;
    let script = world.upgrade(&["--yes"]).run()?;
    ensure!(script.exit == 7 && script.screen.contains("`xivo-upgrade attach` shows it"), "{script}");
    world
        .upgrade(&[])
        .env("TERM", "dumb")
        .answer("post-upgrade hooks\n  10-first.sh: ok\n  20-second: ok\n", "\u{3}")
        .exits(7)?;
    let attached = follow_to_the_end(&world)?;
    let nothing = world.upgrade(&["attach"]).exits(1)?;
    let (_, end) = left.screen.split_once("now? ").context("no question")?;
    Ok(format!("…{end}\n{attached}\n{nothing}"))
}

/// Runs the upgrader in a session of its own, which a command ends once the upgrade waits.
fn in_lost_session(world: &World, argument: &str, ending: &str) -> Result<Transcript> {
    let words = ["systemd-run", "--quiet", "--pipe", "--wait", "--unit=session", "xivo-upgrade", argument];
    let end = || {
        world.machine.wait_until("test -e /root/waiting && systemctl is-active --quiet session")?;
        world.machine.sh(ending)
    };
    let (session, _) = while_running(|| world.machine.command(&words).run(), end)?;
    ensure!(session.exit != 0, "{session}");
    Ok(session)
}

fn terminal_lost(debian: Debian) -> Result<()> {
    let world = upgradable_and_waiting(debian)?;
    let lost = world.upgrade(&[]).answer("[Y/n] ", "y\n").hang_up_after("Upgrading packages\n").run()?;
    ensure!(lost.exit == HUNG_UP, "{lost}");
    // A restart of ssh that ends its sessions: systemd ends every process of the control group.
    in_lost_session(&world, "attach", "systemctl stop session")?;
    follow_to_the_end(&world)?;
    Ok(())
}

fn foreground_killed(debian: Debian) -> Result<()> {
    let world = upgradable_and_waiting(debian)?;
    let killed = in_lost_session(&world, "--yes", "systemctl kill --signal=KILL session")?;
    ensure!(killed.screen.contains("The upgrade continues in the background"), "{killed}");
    follow_to_the_end(&world)?;
    Ok(())
}

/// Checks that no program of an upgrade runs and that its lock is free. apt's helpers need a moment to notice that apt is gone.
fn nothing_runs(world: &World) -> Result<()> {
    let programs = "apt-get|dpkg|http|store|xivo-upgrade|real-xivo-upgra";
    world
        .machine
        .sh(&format!(
            "timeout 3 sh -c \"while pgrep -x '{programs}' >/dev/null; do sleep 0.02; done\" || {{ ps -ef; exit 1; }}
             flock --nonblock /run/xivo-upgrade.lock true"
        ))
        .map(drop)
}

fn ctrl_c_before_the_work(debian: Debian) -> Result<()> {
    let world = upgradable(debian)?;
    world.machine.sh("apt-get -qq update")?;
    let before = snapshot(&world)?;
    let unharmed = |transcript: &Transcript| {
        ensure!(transcript.exit == 130, "{transcript}");
        nothing_runs(&world)?;
        ensure!(snapshot(&world)? == before, "the machine changed: {transcript}");
        Ok(())
    };
    unharmed(&world.upgrade(&[]).answer("[Y/n] ", "\u{3}").run()?)?;

    world.inject(RepositoryFault::new(ServerFault::Slow(500), Affected::Packages))?;
    unharmed(&world.upgrade(&["--download-only"]).answer("Downloading packages\n", "\u{3}").run()?)?;
    world.clear_fault()?;

    // A source that accepts connections and never answers.
    world.machine.sh("systemd-run --quiet --unit=mute perl -MIO::Socket::INET -e '
            $s = IO::Socket::INET->new(LocalPort => 8099, Listen => 5) or die; push @c, $s->accept while 1'
         until grep -q ':1FA3 ' /proc/net/tcp; do sleep 0.02; done")?;
    let source = b"Types: deb\nURIs: http://127.0.0.1:8099/\nSuites: mute\nComponents: main\n";
    world.machine.write("/etc/apt/sources.list.d/mute.sources", source, 0o644)?;
    let before = snapshot(&world)?;
    let refreshing = world.upgrade(&[]).answer("Reading package lists\n", "\u{3}").exits(130)?;
    nothing_runs(&world)?;
    ensure!(snapshot(&world)? == before, "the machine changed: {refreshing}");
    world.machine.sh("systemctl stop mute; rm /etc/apt/sources.list.d/mute.sources")?;

    world.upgrade(&["--yes"]).exits(0)?;
    is_at(&world, "1.2.2")
}

fn without_systemd_run(debian: Debian) -> Result<()> {
    let mut world = upgradable_and_waiting(debian)?;
    // systemctl works without D-Bus; systemd-run does not.
    world.machine.sh("systemctl stop dbus.socket dbus.service 2>&1; ! systemd-run --quiet --pipe true 2>/dev/null")?;
    world.machine.sh("touch /root/go")?;
    let ignoring = world.upgrade(&[]).answer("[Y/n] ", "y\n").answer("Upgrading packages\n", "\u{3}").run()?;
    ensure!(ignoring.exit == 0 && ignoring.screen.contains("From here on Ctrl-C is ignored\n"), "{ignoring}");
    is_at(&world, "1.2.2")?;

    world.publish([&Package::new("xivo-sounds", "1.2.3")])?;
    world.machine.sh("rm /root/go /root/waiting")?;
    let (lost, attached) = while_running(
        || world.upgrade(&[]).answer("[Y/n] ", "y\n").hang_up_after("Upgrading packages\n").run(),
        || {
            world.machine.wait_until("test -e /root/waiting")?;
            world.machine.sh("touch /root/go")?;
            world.upgrade(&["attach"]).run()
        },
    )?;
    ensure!(lost.exit == HUNG_UP && attached.exit == 0, "{lost}{attached}");
    ensure!(SystemState::of(&world.machine, &SERVICES)?.packages["xivo-sounds"] == "1.2.3", "{attached}");
    Ok(())
}

/// Prints who runs it, the number of its controlling terminal (proc(5)), and whether that can be opened.
const PROBE: &str = "#!/bin/sh
read -r _ _ _ _ _ _ terminal _ </proc/self/stat
if (: </dev/tty) 2>/dev/null; then opened=opened; else opened=closed; fi
echo \"$1: $(id -un) $terminal $opened\" >>/var/lib/probes/seen
";

fn no_program_has_the_terminal(debian: Debian) -> Result<()> {
    let mut world = upgradable(debian)?;
    let machine = &world.machine;
    machine.sh("install -d -o nobody /var/lib/probes")?;
    machine.write("/usr/local/bin/probe", PROBE.as_bytes(), 0o755)?;
    let at_terminal =
        machine.command(&["runuser", "-u", "nobody", "/usr/local/bin/probe", "here"]).at_terminal().run()?;
    let seen = machine.sh("cat /var/lib/probes/seen; rm /var/lib/probes/seen")?;
    ensure!(
        !seen.contains(" 0 ") && seen.ends_with(" opened\n"),
        "the probe does not see a terminal: {seen}{at_terminal}"
    );
    let probe = |name| format!("runuser -u nobody /usr/local/bin/probe {name}");
    let apt = format!(
        "APT::Update::Pre-Invoke {{ \"{}\"; }};\nDPkg::Pre-Invoke {{ \"{}\"; }};\n",
        probe("update"),
        probe("packages")
    );
    machine.write("/etc/apt/apt.conf.d/90probe", apt.as_bytes(), 0o644)?;
    let hook = format!("#!/bin/sh\n{}\n", probe("hook"));
    machine.write("/etc/xivo-upgrade/pre-upgrade.d/50-probe", hook.as_bytes(), 0o755)?;
    let without_a_terminal = |world: &World, names: &[&str]| {
        let seen = world.machine.sh("cat /var/lib/probes/seen; rm /var/lib/probes/seen")?;
        let wrong: Vec<&str> = seen.lines().filter(|line| !line.ends_with(": nobody 0 closed")).collect();
        ensure!(wrong.is_empty(), "a program has the terminal: {wrong:#?}");
        for name in names {
            ensure!(seen.contains(&format!("{name}: ")), "{name} did not run: {seen}");
        }
        Ok(())
    };
    world.upgrade(&["--dry-run"]).at_terminal().exits(0)?;
    without_a_terminal(&world, &["update"])?;
    world.upgrade(&[]).answer("[Y/n] ", "y\n").exits(0)?;
    without_a_terminal(&world, &["update", "hook", "packages"])?;
    world.publish([&Package::new("xivo-sounds", "1.2.3")])?;
    world.machine.sh("systemctl stop dbus.socket dbus.service 2>&1; ! systemd-run --quiet --pipe true 2>/dev/null")?;
    let ignoring = world.upgrade(&[]).answer("[Y/n] ", "y\n").exits(0)?;
    ensure!(ignoring.screen.contains("From here on Ctrl-C is ignored\n"), "{ignoring}");
    without_a_terminal(&world, &["update", "hook", "packages"])
}
