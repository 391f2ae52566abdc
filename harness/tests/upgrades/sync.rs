//! When the changes of packages are on the disk: the setting `sync`.

use anyhow::{Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::upgradable;
use harness::packages::package::Package;

use crate::scenario::scenarios;

scenarios! {
    /// fsync(2) returns at once for maintainer scripts, unless the admin has it synced; a daemon that a script has left behind is
    /// restarted with fsync, and a script in the background may end.
    Checked fsync_is_deferred;
}

/// A daemon that prints its arguments and its variable where it started. It has a worker, which ends with it.
const DAEMON: &str = "#!/usr/bin/perl
open my $started, '>>', 'started';
print $started join('|', @ARGV, $ENV{WATCHES}, $>), \"\\n\";
close $started;
my $master = $$;
if (fork) { sleep 1000 while 1 }
select undef, undef, undef, 0.05 while getppid == $master;
";

/// Records under how many filters it runs, and starts the daemon and a job.
const POSTINST: &str = "#!/bin/sh
set -e
sed -n 's/^Seccomp_filters:[[:space:]]*//p' /proc/self/status >/root/filters
[ \"$2\" = 1 ] || exit 0
install --directory --owner nobody /var/lib/watcher
WATCHES=disks start-stop-daemon --start --background --make-pidfile --pidfile /run/watcher.pid --chuid nobody --chdir /var/lib/watcher --startas /usr/libexec/watcher -- 'an argument' '' 'costs $HOME'
(sleep 1; cp /root/filters /root/later) &
";

fn fsync_is_deferred(debian: Debian) -> Result<()> {
    let watcher = |version| {
        Package::new("watcher", version).file("/usr/libexec/watcher", DAEMON, 0o755).script("postinst", POSTINST)
    };
    let mut world = upgradable(debian)?;
    world.publish([&watcher("1")])?;
    world.install(&["watcher"])?;
    world.publish([&watcher("2")])?;
    world.upgrade(&["--yes"]).exits(0)?;
    ensure!(world.machine.sh("cat /root/filters /root/later")? == "1\n1\n");
    let started = world.machine.sh("cat /var/lib/watcher/started; id --user nobody")?;
    let line = "an argument||costs $HOME|disks|65534\n";
    ensure!(started == format!("{line}{line}65534\n"), "the daemons: {started}");
    let filters = world.machine.sh("for process in /proc/[0-9]*; do
            if grep -aqs 'libexec/[w]atcher' $process/cmdline; then grep Seccomp_filters $process/status; fi
        done")?;
    ensure!(filters == "Seccomp_filters:\t0\n".repeat(2), "the filters of the daemon and its worker: {filters}");
    world.machine.write("/etc/xivo-upgrade/config.toml", b"sync = \"each\"\n", 0o644)?;
    world.publish([&watcher("3")])?;
    world.upgrade(&["--yes"]).exits(0)?;
    ensure!(world.machine.sh("cat /root/filters")? == "0\n");
    Ok(())
}
