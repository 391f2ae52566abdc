//! Resume and rollback of interrupted, failed and successful upgrades.

use anyhow::{Result, ensure};
use harness::at_once::both;
use harness::machines::image::Debian;
use harness::machines::product_machine::{leave_unfinished, upgradable};
use harness::machines::transcript::Transcript;
use harness::machines::world::World;
use harness::observe::inventory::SystemState;
use harness::packages::package::Package;
use harness::packages::repository_fault::{Affected, RepositoryFault, ServerFault};
use harness::packages::shipped::SERVICES;

use crate::preflight::hold_lock;
use crate::scenario::scenarios;

scenarios! {
    /// The next start finds an interrupted upgrade, reports its step, time and place, and completes it on request;
    /// completed hooks do not run again, and the interrupted one learns that it is resumed.
    Compared interrupted_and_resumed;
    /// The next start rolls an interrupted upgrade back on request, and changes nothing without an answer.
    Compared interrupted_and_rolled_back;
    /// A machine that loses its power during an upgrade completes it at boot, without an admin.
    Compared resumed_at_boot;
    /// An upgrade during which the machine is rebooted in good order stops, rolls nothing back, and is completed at boot: after the first
    /// hook, and again when the unit at boot resumes it. Meanwhile `status` and each login say so.
    Checked resumed_after_a_reboot;
    /// When the new version of a service does not start, the upgrade is rolled back: all services run the old version.
    Compared rolled_back_after_a_failed_service;
    /// Rollback data that cannot be removed does not change the outcome of a rollback, and the next run removes it.
    Checked rollback_data_is_stuck;
    /// `rollback` rolls back a successful upgrade after it has listed what has changed since, once.
    Compared manual_rollback;
    /// `rollback` warns that dpkg will not know of packages that were installed since, and the remedy works.
    Compared rollback_after_other_package_changes;
    /// A rollback restores the state at the start of its own run: rollback data of an earlier upgrade is not used.
    Checked rollback_of_a_failed_run_only;
    /// `rollback` names the process that holds the dpkg lock, and changes nothing.
    Compared rollback_needs_the_dpkg_lock;
    /// With damaged rollback data `rollback` changes nothing, and names the damage and the remedy.
    Compared damaged_rollback_data;
    /// With `rollback = "ask"` the upgrader asks before it rolls back, and with "never" it saves no rollback data.
    Compared rollback_settings;
}

/// A post-upgrade hook that kills the worker the first time, and then logs whether the run was resumed.
const KILL: &str = "#!/bin/sh\nif mkdir /root/killed 2>/dev/null; then kill -KILL $(cat /run/xivo-upgrade.lock); fi\n\
                    echo \"resumed: $UPGRADE_RESUMED\" >>/root/resumed\n";

/// Disables the automatic rollback of upgrades that fail.
pub(crate) fn keep_failed_upgrades(world: &World) -> Result<()> {
    world.machine.write("/etc/xivo-upgrade/config.toml", b"rollback = \"ask\"\n", 0o644)
}

/// A machine whose upgrade was interrupted in its second post-upgrade hook.
fn interrupted(debian: Debian) -> Result<World> {
    let world = upgradable(debian)?;
    world.machine.write("/usr/share/xivo-upgrade/post-upgrade.d/15-kill", KILL.as_bytes(), 0o755)?;
    let transcript = world.upgrade(&["--yes"]).run()?;
    ensure!(
        transcript.exit == 5 && transcript.screen.contains("it completes the upgrade or rolls it back"),
        "{transcript}"
    );
    Ok(world)
}

/// Checks that the whole machine is at a version, and that a run has left nothing behind.
pub(crate) fn is_at(world: &World, version: &str) -> Result<()> {
    let state = SystemState::of(&world.machine, &SERVICES)?;
    ensure!(state.unfinished.is_empty() && state.packages["xivo"] == version, "{state:?}");
    ensure!(state.services.values().all(|service| service.version == version), "{state:?}");
    world.machine.sh(
        "test ! -e /usr/sbin/policy-rc.d && test ! -e /var/lib/xivo-upgrade/journal && dpkg --audit && test -z \"$(dpkg --audit)\"
         ! find / -xdev -name '*.xivo-upgrade-tmp' | grep .",
    )?;
    Ok(())
}

fn rollback_after_other_package_changes(debian: Debian) -> Result<String> {
    let mut world = upgradable(debian)?;
    world.upgrade(&["--yes"]).exits(0)?;
    world.publish([&Package::new("extra", "1.0").file("/usr/bin/extra", "#!/bin/sh\n", 0o755)])?;
    world.install(&["extra"])?;
    let undone = world.upgrade(&["rollback"]).answer("[Y/n] ", "y\n").exits(0)?;
    is_at(&world, "1.2.1")?;
    world.machine.sh("test -x /usr/bin/extra; ! dpkg-query --show extra 2>/dev/null")?;
    // The remedy.
    world.machine.sh("apt-get -qq update; apt-get -qq -y install --reinstall extra 2>&1; dpkg --verify extra; dpkg --search /usr/bin/extra")?;
    Ok(world.shown(&[&undone]))
}

fn rollback_of_a_failed_run_only(debian: Debian) -> Result<()> {
    let mut world = upgradable(debian)?;
    world.upgrade(&["--yes"]).exits(0)?;
    world.machine.sh("echo '# since 1.2.2' >>/etc/hosts")?;
    leave_unfinished(&world.machine, "#!/bin/sh\ntest -e /srv/repaired\n")?;
    world.publish([&Package::new("xivo-sounds", "1.2.3").script("postinst", "#!/bin/sh\nexit 1\n")])?;
    let in_repair = world.upgrade(&["--yes"]).run()?;
    ensure!(in_repair.exit == 5 && in_repair.screen.contains("unfinished"), "{in_repair}");
    world.machine.sh("touch /srv/repaired")?;
    world.upgrade(&["--yes"]).exits(4)?;
    let state = SystemState::of(&world.machine, &SERVICES)?;
    // As at the start of that run: the package is not configured.
    ensure!(state.unfinished == ["unfinished half-configured"] && state.packages["xivo"] == "1.2.2", "{state:?}");
    ensure!(state.services.values().all(|service| service.version == "1.2.2"), "{state:?}");
    world.machine.sh("grep -qx '# since 1.2.2' /etc/hosts")?;
    Ok(())
}

fn rollback_needs_the_dpkg_lock(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    world.upgrade(&["--yes"]).exits(0)?;
    world.machine.write("/etc/xivo-upgrade/config.toml", b"[time-limits]\nlock = \"1s\"\n", 0o644)?;
    let holder = hold_lock(&world)?;
    let refused = world.upgrade(&["rollback", "--yes"]).run()?;
    ensure!(refused.exit == 1 && refused.screen.contains("another program holds the dpkg lock"), "{refused}");
    is_at(&world, "1.2.2")?;
    world.machine.sh("systemctl stop holder")?;
    world.upgrade(&["rollback", "--yes"]).exits(0)?;
    is_at(&world, "1.2.1")?;
    let end = refused.screen.lines().filter(|line| line.starts_with("error: ")).collect::<Vec<_>>().join("\n");
    Ok(end.replace(&holder, "1234"))
}

fn interrupted_and_resumed(debian: Debian) -> Result<String> {
    let world = interrupted(debian)?;
    let dry = world.upgrade(&["--dry-run"]).run()?;
    ensure!(dry.exit == 0 && dry.screen.contains("was interrupted on"), "{dry}");
    let status = world.upgrade(&["status"]).exits(6)?;
    let completed = world.upgrade(&[]).answer("[Y/n/r, r rolls back to 1.2.1] ", "y\n").exits(0)?;
    is_at(&world, "1.2.2")?;
    ensure!(world.machine.sh("cat /root/resumed")? == "resumed: 0\nresumed: 1\n");
    let log = world.machine.sh("cat /var/log/xivo-upgrade.log")?;
    ensure!(log.matches("pre-upgrade hook 10-first began").count() == 1, "{log}");
    ensure!(log.matches("post-upgrade hook 10-first.sh began").count() == 1, "{log}");
    ensure!(log.matches("post-upgrade hook 15-kill began").count() == 2, "{log}");
    Ok(world.shown(&[&status, &completed]).replace(&time(&status), "… "))
}

/// The time of the last upgrade in the output of `status`.
fn time(status: &Transcript) -> String {
    let line = status.screen.lines().find_map(|line| line.strip_prefix("Last upgrade: ")).unwrap_or_default();
    line.chars().take("2026-11-22 15:48  ".len()).collect()
}

fn interrupted_and_rolled_back(debian: Debian) -> Result<String> {
    let world = interrupted(debian)?;
    let without_stdin = world.upgrade(&[]).in_shell("exec <&-").exits(3)?;
    let undone = world.upgrade(&[]).answer("[Y/n/r, r rolls back to 1.2.1] ", "r\n").exits(0)?;
    is_at(&world, "1.2.1")?;
    world.upgrade(&["--yes"]).exits(0)?;
    is_at(&world, "1.2.2")?;
    Ok(world.shown(&[&without_stdin, &undone]))
}

fn resumed_at_boot(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let hook = "#!/bin/sh\nif mkdir /root/waited 2>/dev/null; then touch /root/waiting; sleep infinity; fi\n";
    world.machine.write("/etc/xivo-upgrade/post-upgrade.d/50-wait", hook.as_bytes(), 0o755)?;
    let cut = || world.machine.wait_until("test -e /root/waiting").and_then(|()| world.machine.cut_power());
    both(|| world.upgrade(&["--yes"]).run_until_power_loss(), cut).1?;
    world.machine.power_on()?;
    world.machine.wait_until("test ! -e /var/lib/xivo-upgrade/journal")?;
    world.machine.wait_until("flock --nonblock /run/xivo-upgrade.lock true")?;
    is_at(&world, "1.2.2")?;
    let journal = world.machine.sh(
        "systemctl show --property=Result xivo-upgrade-resume; journalctl --sync
         journalctl --quiet --output=cat SYSLOG_IDENTIFIER=xivo-upgrade _COMM=real-xivo-upgra | sed -n '/was interrupted/,$p'",
    )?;
    Ok(without_milliseconds(&world.redacted(&journal)))
}

/// A hook that ends once a shutdown of the machine has begun. Its process outlives the first phase of that, as dpkg does.
const UNTIL_SHUTDOWN: &str = "#!/bin/sh
touch /root/waiting-$UPGRADE_PHASE
until systemctl is-system-running | grep -q stopping; do sleep 0.1; done
";

fn resumed_after_a_reboot(debian: Debian) -> Result<()> {
    let world = upgradable(debian)?;
    for phase in ["pre-upgrade", "post-upgrade"] {
        world.machine.write(&format!("/etc/xivo-upgrade/{phase}.d/50-wait"), UNTIL_SHUTDOWN.as_bytes(), 0o755)?;
        world.machine.write(&format!("/etc/xivo-upgrade/{phase}.d/60-next"), b"#!/bin/sh\n", 0o755)?;
    }
    let locks = std::thread::scope(|scope| {
        let run = scope.spawn(|| world.upgrade(&["--yes"]).run_until_power_loss());
        world.machine.wait_until("test -e /root/waiting-pre-upgrade")?;
        let locks = world.machine.sh("systemd-inhibit --list --no-legend");
        // Another admin insists.
        world.machine.shut_down()?;
        let _ = run.join();
        locks
    })?;
    ensure!(locks.contains("xivo-upgrade"), "no inhibitor lock: {locks}");
    // The unit at boot resumes the run, and is interrupted in the same way.
    world.machine.begin_boot()?;
    world.machine.wait_until("test -e /root/waiting-post-upgrade")?;
    let said = world.machine.sh("cat /run/motd.d/*upgrade*; xivo-upgrade status || :")?;
    ensure!(said.contains("An interrupted upgrade is being completed: `xivo-upgrade attach` shows it."), "{said}");
    ensure!(said.contains("under way"), "{said}");
    world.machine.shut_down()?;
    world.machine.power_on()?;
    world.machine.wait_until("test ! -e /var/lib/xivo-upgrade/journal")?;
    world.machine.wait_until("flock --nonblock /run/xivo-upgrade.lock true")?;
    is_at(&world, "1.2.2")?;
    let log = world.machine.sh("cat /var/log/xivo-upgrade.log; ls /run/motd.d")?;
    ensure!(
        log.matches("interrupted by the shutdown of the machine").count() == 2 && !log.contains("olled back"),
        "{log}"
    );
    for hook in ["50-wait", "60-next"] {
        ensure!(
            log.matches(&format!("upgrade hook {hook} began")).count() == 2,
            "{hook} must run once in each phase: {log}"
        );
    }
    Ok(())
}

/// A text without its numbers of milliseconds.
fn without_milliseconds(text: &str) -> String {
    let line = |line: &str| match line.rsplit_once(" after ") {
        Some((before, time)) if time.ends_with(" ms") => format!("{before} after … ms\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Lets version 1.2.2 of a service fail to start; 1.2.1 starts.
fn break_new_version(world: &World) -> Result<()> {
    let condition = b"[Service]\nExecStartPre=/bin/sh -c '! grep -q 1.2.2 /usr/libexec/xivo-agid'\n";
    world.machine.write("/etc/systemd/system/xivo-agid.service.d/broken.conf", condition, 0o644)?;
    world.machine.sh("systemctl daemon-reload").map(drop)
}

fn rolled_back_after_a_failed_service(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    break_new_version(&world)?;
    let undone = world.upgrade(&["--yes"]).exits(4)?;
    is_at(&world, "1.2.1")?;
    world.upgrade(&["status"]).exits(0)?;
    let at = undone.screen.find("Restarting services").unwrap_or(0);
    Ok(format!("…\n{}", world.redacted(&undone.screen[at..])))
}

fn rollback_data_is_stuck(debian: Debian) -> Result<()> {
    let world = upgradable(debian)?;
    // What is mounted below a directory keeps it from being removed.
    let busy = "/var/lib/xivo-upgrade/rollback/busy";
    let mount =
        format!("[Service]\nExecStartPre=/bin/sh -c 'test -e {busy} || mkdir {busy} && mount -t tmpfs none {busy}'\n");
    world.machine.write("/etc/systemd/system/asterisk.service.d/busy.conf", mount.as_bytes(), 0o644)?;
    break_new_version(&world)?;
    let undone = world.upgrade(&["--yes"]).exits(4)?;
    ensure!(undone.screen.contains("The data of this rollback could not be removed: "), "{undone}");
    world.machine.sh(&format!("while mountpoint -q {busy}; do umount {busy}; done"))?;
    let status = world.upgrade(&["status"]).exits(0)?;
    ensure!(!status.screen.contains("interrupted"), "{status}");
    world.machine.sh("rm /etc/systemd/system/*.d/b*.conf; systemctl daemon-reload")?;
    world.upgrade(&["--yes"]).exits(0)?;
    is_at(&world, "1.2.2")
}

fn manual_rollback(debian: Debian) -> Result<String> {
    let mut world = upgradable(debian)?;
    let early = world.upgrade(&["rollback"]).exits(1)?;
    world.machine.sh("echo 'language = de' >/etc/xivo/xivo.conf")?;
    world.upgrade(&["--yes"]).exits(0)?;
    world.machine.sh(
        "echo 'language = it' >/etc/xivo/xivo.conf; echo hello >/etc/motd.new; rm /usr/bin/env.old 2>/dev/null || :",
    )?;
    // A run that changes nothing keeps the rollback data.
    world.publish([&Package::new("xivo-sounds", "1.2.3")])?;
    world.inject(RepositoryFault::new(ServerFault::Error(503), Affected::Packages))?;
    world.upgrade(&["--yes"]).exits(1)?;
    world.clear_fault()?;
    world.upgrade(&["rollback"]).answer("[Y/n] ", "n\n").exits(3)?;
    is_at(&world, "1.2.2")?;
    let undone = world.upgrade(&["rollback"]).answer("[Y/n] ", "y\n").exits(0)?;
    is_at(&world, "1.2.1")?;
    ensure!(world.machine.sh("cat /etc/xivo/xivo.conf")? == "language = de\n", "the conffile was not restored");
    ensure!(world.machine.sh("cat /etc/motd.new")? == "hello\n", "a file that the admin created is gone");
    let more = world.upgrade(&["rollback"]).exits(1)?;
    Ok(world.shown(&[&early, &undone, &more]))
}

fn damaged_rollback_data(debian: Debian) -> Result<String> {
    let world = interrupted(debian)?;
    // One object is missing, another is changed.
    let object = |path: &str| {
        let line = format!("s#.*\"path\":\"{path}\".*\"object\":\\([0-9]*\\).*#\\1#p");
        world.machine.sh(&format!("sed -n '{line}' /var/lib/xivo-upgrade/rollback/manifest | grep ."))
    };
    let (gone, other) = (object("/etc/xivo/xivo.conf")?, object("/etc/nsswitch.conf")?);
    world.machine.sh(&format!(
        "cd /var/lib/xivo-upgrade/rollback/files; rm {}; echo >>{}",
        gone.trim(),
        other.trim()
    ))?;
    let state = SystemState::of(&world.machine, &SERVICES)?;
    let damaged = world.upgrade(&["rollback"]).exits(5)?;
    ensure!(SystemState::of(&world.machine, &SERVICES)? == state, "something was touched");
    world.machine.sh("sed -i '3s/path/part/' /var/lib/xivo-upgrade/rollback/manifest")?;
    let worse = world.upgrade(&["rollback"]).run()?;
    ensure!(worse.exit == 5 || worse.exit == 1, "{worse}");
    world.machine.sh("sed -i '2s/time/tame/' /var/lib/xivo-upgrade/journal")?;
    let unreadable = world.upgrade(&["--yes"]).exits(1)?;
    Ok(world.shown(&[&damaged, &worse, &unreadable]))
}

fn rollback_settings(debian: Debian) -> Result<String> {
    let world = upgradable(debian)?;
    let set = |value: &str| {
        world.machine.write("/etc/xivo-upgrade/config.toml", format!("rollback = \"{value}\"\n").as_bytes(), 0o644)
    };
    break_new_version(&world)?;
    set("ask")?;
    let asked = world
        .upgrade(&[])
        .answer("upgrade XiVO 1.2.1 to 1.2.2 now? [Y/n] ", "y\n")
        .answer("roll back to XiVO 1.2.1 now? [Y/n] ", "y\n")
        .exits(0)?;
    is_at(&world, "1.2.1")?;
    set("never")?;
    world.upgrade(&["--yes"]).exits(5)?;
    world.machine.sh("test ! -e /var/lib/xivo-upgrade/rollback")?;
    let rollback = world.upgrade(&["rollback"]).exits(1)?;
    let at = asked.screen.find("Restarting services").unwrap_or(0);
    Ok(format!("…\n{}\n{}", world.redacted(&asked.screen[at..]), world.shown(&[&rollback])))
}
