use anyhow::{Context as _, Result};
use upgrader::step::Step;

use crate::machine::Machine;
use crate::package::Package;
use crate::shipped::XIVO;

/// What strikes, on the machine.
const STRIKE: &str = "/root/strike";

/// What waits for the last step, and then strikes.
const LATER: &str = "/root/strike-later";

/// There once it has struck.
const STRUCK: &str = "/root/struck";

/// The package of the new release in whose configuration something can strike: there are others before and after it.
const PACKAGE: &str = "dahdi";

/// The service before whose start something can strike: there are others before and after it.
const SERVICE: &str = "xivo-provd";

/// The last service of the order. When it is up, nothing is left but to look whether all stay up.
const LAST_SERVICE: &str = "nginx";

/// Lets shell commands run in the middle of a step, by what a machine has for that: apt's and dpkg's own hooks, hooks of the admin,
/// drop-ins of units. Nothing of the upgrader has to know.
///
/// Two steps are struck at from elsewhere: the question when it is asked ([`strike`] as the person does it), and the download when
/// the repository is asked for the first package.
pub(super) fn arm(machine: &Machine, step: Step, deed: &str, persists: bool) -> Result<()> {
    let guard = if persists { String::new() } else { format!("mkdir {STRUCK} 2>/dev/null || exit 0\n") };
    machine.write(STRIKE, format!("#!/bin/sh\n{guard}{deed}\n").as_bytes(), 0o755)?;
    let run = format!("#!/bin/sh\nexec {STRIKE}\n");
    let drop_in = |service: &str, line: &str| {
        let path = format!("/etc/systemd/system/{service}.service.d/strike.conf");
        machine.write(&path, format!("[Service]\n{line}\n").as_bytes(), 0o644)?;
        machine.sh("systemctl daemon-reload").map(drop)
    };
    match step {
        Step::Refresh => apt_hook(machine, "APT::Update::Pre-Invoke"),
        Step::Preflight => apt_hook(machine, "APT::Update::Post-Invoke"),
        Step::SelfUpdate => apt_hook(machine, "DPkg::Pre-Invoke"),
        Step::PreUpgradeHooks | Step::PostUpgradeHooks => {
            let directory = super::fault::key(step).replace("hooks", "d").replace("-d", ".d");
            machine.write(&format!("/etc/xivo-upgrade/{directory}/50-strike"), run.as_bytes(), 0o755)
        }
        Step::Restart => drop_in(SERVICE, &format!("ExecStartPre={STRIKE}")),
        Step::Verify => {
            let log = format!("/var/log/{}.log", XIVO.package());
            let wait =
                format!("#!/bin/sh\nuntil grep -q 'step verify began' {log}; do sleep 0.02; done\nexec {STRIKE}\n");
            machine.write(LATER, wait.as_bytes(), 0o755)?;
            machine.sh("sed -i 's/^settle = .*/settle = \"2s\"/' /usr/share/xivo-upgrade/product.toml")?;
            drop_in(LAST_SERVICE, &format!("ExecStartPost=systemd-run --quiet --collect --no-block {LATER}"))
        }
        // In a maintainer script, at the question, or when a package is fetched: nothing on the machine to prepare.
        Step::Plan | Step::Confirm | Step::Repair | Step::Download | Step::Packages | Step::Migrate => Ok(()),
    }
}

fn apt_hook(machine: &Machine, hook: &str) -> Result<()> {
    machine.write("/etc/apt/apt.conf.d/99strike", format!("{hook} {{\"{STRIKE}\";}};\n").as_bytes(), 0o644)
}

/// Does now what [`arm`] has prepared.
#[must_use]
pub(super) fn strike() -> &'static str {
    STRIKE
}

/// Takes away what [`arm`] brought.
pub(super) fn disarm(machine: &Machine) -> Result<()> {
    machine.sh(&format!(
        "rm -f {STRIKE} {LATER} /etc/apt/apt.conf.d/99strike /etc/xivo-upgrade/*-upgrade.d/50-strike
         for service in {SERVICE} {LAST_SERVICE}; do
             cd /etc/systemd/system
             if rm $service.service.d/strike.conf 2>/dev/null; then rmdir --ignore-fail-on-non-empty $service.service.d; fi
         done
         sed -i 's/^settle = .*/settle = \"0s\"/' /usr/share/xivo-upgrade/product.toml
         systemctl daemon-reload"
    ))?;
    Ok(())
}

/// True if it has struck.
pub(super) fn has_struck(machine: &Machine) -> Result<bool> {
    Ok(machine.command(&["test", "-e", STRUCK]).run()?.exit == 0)
}

/// Gives one of the packages of a release a maintainer script in which something can strike.
pub(super) fn let_maintainer_script_strike(packages: &mut [Package]) -> Result<()> {
    let package = packages.iter_mut().find(|package| package.name == PACKAGE).context("the release has no dahdi")?;
    let script = package.scripts.entry("postinst".to_owned()).or_insert_with(|| "#!/bin/sh\nset -e\n".to_owned());
    *script = script.replacen("set -e\n", &format!("set -e\nif [ -x {STRIKE} ]; then {STRIKE}; fi\n"), 1);
    Ok(())
}
