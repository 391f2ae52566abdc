//! Tests the files that the package installs in addition to the programs.

use anyhow::{Result, ensure};
use harness::machines::image::Debian;
use harness::machines::product_machine::upgradable;

use crate::scenario::scenarios;

scenarios! {
    /// logrotate rotates the log, and the next upgrade writes to a new one.
    Checked log_is_rotated;
    /// Tab after xivo-upgrade completes its options.
    Checked options_are_completed;
}

fn log_is_rotated(debian: Debian) -> Result<()> {
    let world = upgradable(debian)?;
    let machine = &world.machine;
    machine.install_from_debian(&["logrotate"])?;
    ensure!(world.upgrade(&["--dry-run"]).run()?.exit == 0);
    // The admin can edit the file.
    let conffiles = machine.sh("dpkg-query --show --showformat='${Conffiles}' xivo-upgrade")?;
    ensure!(conffiles.contains("/etc/logrotate.d/xivo-upgrade "), "{conffiles}");
    let said = machine.sh("logrotate --verbose --force /etc/logrotate.conf 2>&1")?;
    ensure!(!said.contains("error"), "{said}");
    machine.sh("grep dry-run /var/log/xivo-upgrade.log.1")?;

    world.upgrade(&["--yes"]).exits(0)?;
    let log = machine.sh("cat /var/log/xivo-upgrade.log")?;
    ensure!(log.contains("\"--yes\"") && !log.contains("dry-run"), "{log}");
    machine.sh("logrotate --force /etc/logrotate.conf && zcat /var/log/xivo-upgrade.log.2.gz | grep dry-run")?;
    machine.sh("grep -e --yes /var/log/xivo-upgrade.log.1")?;
    Ok(())
}

fn options_are_completed(debian: Debian) -> Result<()> {
    let world = upgradable(debian)?;
    // What bash does for Tab after `xivo-upgrade --d`.
    let script = "source /usr/share/bash-completion/completions/xivo-upgrade
                  COMP_WORDS=(xivo-upgrade --d) COMP_CWORD=1
                  function=$(complete -p xivo-upgrade | sed 's/.*-F \\([^ ]*\\).*/\\1/')
                  $function xivo-upgrade --d xivo-upgrade
                  echo ${COMPREPLY[*]}";
    let transcript = world.machine.command(&["bash", "-c", script]).exits(0)?;
    ensure!(transcript.screen == "--download-only --dry-run\n", "{transcript}");
    Ok(())
}
