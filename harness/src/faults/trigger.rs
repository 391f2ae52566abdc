//! Runs shell commands on a machine in the middle of a step, for faults and for stopping a run.

use anyhow::Result;
use upgrader::model::step::Step;

use super::fault::key;
use crate::machines::machine::Machine;
use crate::machines::product_machine::{UNFINISHED, leave_unfinished};
use crate::packages::release::Release;
use crate::packages::shipped::XIVO;

/// The package of the new release whose postinst runs the commands. Other packages are configured before and after it.
const PACKAGE: &str = "dahdi";

/// The service whose start runs the commands. Other services start before and after it.
const SERVICE: &str = "xivo-provd";

/// The last service of the order. Once it runs, the step `verify` follows.
const LAST_SERVICE: &str = "nginx";

/// Locks a table of the database until the migration waits for it, then runs the commands.
const HOLD: &str = r#"#!/bin/sh
mkfifo @PROGRAM@.sql
runuser -u postgres -- psql --quiet asterisk <@PROGRAM@.sql &
exec 3>@PROGRAM@.sql
rm @PROGRAM@.sql
is_locked() {
    runuser -u postgres -- psql -XAtqc "SELECT 1 FROM pg_locks WHERE relation = 'calls'::regclass AND $1" asterisk | grep -q 1
}
echo 'BEGIN; LOCK TABLE calls;' >&3
until is_locked "granted AND mode = 'AccessExclusiveLock'"; do sleep 0.02; done
: >@PROGRAM@.held
until is_locked 'NOT granted'; do sleep 0.2; done
@PROGRAM@
"#;

/// Runs shell commands in the middle of a step. It uses hooks of apt and dpkg, maintainer scripts, hooks of the admin, drop-ins of
/// units and locks of the database. The upgrader needs no change for it.
///
/// Two steps are triggered by the harness: `confirm` by the question on the screen, `download` by the request of a package.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trigger {
    /// Part of the names of its files.
    pub(crate) name: &'static str,
    /// The step.
    pub(crate) step: Step,
}

impl Trigger {
    /// The program with the commands; made by [`Trigger::install`].
    pub(crate) fn program(self) -> String {
        format!("/root/{}", self.name)
    }

    /// A directory that exists once the commands have run.
    fn done(self) -> String {
        format!("/root/{}.done", self.name)
    }

    /// Installs the trigger. The commands run once, or with `persists` each time that a run reaches the step.
    pub(crate) fn install(self, machine: &Machine, action: &str, persists: bool) -> Result<()> {
        let (name, program, done) = (self.name, self.program(), self.done());
        let guard =
            if persists { format!("mkdir -p {done}\n") } else { format!("mkdir {done} 2>/dev/null || exit 0\n") };
        machine.write(&program, format!("#!/bin/sh\n{guard}{action}\n").as_bytes(), 0o755)?;
        let apt_hook = |hook: &str| {
            let path = format!("/etc/apt/apt.conf.d/99{name}");
            machine.write(&path, format!("{hook} {{\"{program}\";}};\n").as_bytes(), 0o644)
        };
        let drop_in = |service: &str, line: &str| {
            let path = format!("/etc/systemd/system/{service}.service.d/{name}.conf");
            machine.write(&path, format!("[Service]\n{line}\n").as_bytes(), 0o644)?;
            machine.sh("systemctl daemon-reload").map(drop)
        };
        match self.step {
            Step::Refresh => apt_hook("APT::Update::Pre-Invoke"),
            Step::Preflight => apt_hook("APT::Update::Post-Invoke"),
            Step::SelfUpdate => apt_hook("DPkg::Pre-Invoke"),
            Step::PreUpgradeHooks | Step::PostUpgradeHooks => {
                let directory = key(self.step).replace("-hooks", ".d");
                let hook = format!("#!/bin/sh\nexec {program}\n");
                machine.write(&format!("/etc/xivo-upgrade/{directory}/50-{name}"), hook.as_bytes(), 0o755)
            }
            Step::Restart => drop_in(SERVICE, &format!("ExecStartPre={program}")),
            Step::Verify => {
                let log = format!("/var/log/{}.log", XIVO.package());
                let wait = format!(
                    "#!/bin/sh\nuntil grep -q 'step verify began' {log}; do sleep 0.02; done\nexec {program}\n"
                );
                machine.write(&format!("{program}.later"), wait.as_bytes(), 0o755)?;
                machine.sh("sed -i 's/^settle = .*/settle = \"2s\"/' /usr/share/xivo-upgrade/product.toml")?;
                drop_in(
                    LAST_SERVICE,
                    &format!("ExecStartPost=systemd-run --quiet --collect --no-block {program}.later"),
                )
            }
            Step::Repair => {
                leave_unfinished(machine, &format!("#!/bin/sh\nset -e\nif [ -x {program} ]; then {program}; fi\n"))
            }
            Step::Migrate => {
                // Meanwhile a dump or a migration of the database waits for the locked table.
                let hold = HOLD.replace("@PROGRAM@", &program);
                machine.write(&format!("{program}.later"), hold.as_bytes(), 0o755)?;
                machine.sh(&format!("systemd-run --quiet --collect --unit={name} {program}.later"))?;
                machine.wait_until(&format!("test -e {program}.held"))
            }
            // A maintainer script, the question or the request of a package triggers these: the machine needs no preparation.
            Step::Plan
            | Step::Confirm
            | Step::Download
            | Step::SaveRollbackData
            | Step::Packages
            | Step::RollBack
            | Step::RollBackDatabase
            | Step::RestartOld
            | Step::VerifyOld => Ok(()),
        }
    }

    /// Adds a maintainer script that runs the commands to a package of the release.
    pub(crate) fn add_to_release(self, release: &mut Release) -> Result<()> {
        let script = release.package_mut(PACKAGE)?.script_mut("postinst");
        let program = self.program();
        *script = script.replacen("set -e\n", &format!("set -e\nif [ -x {program} ]; then {program}; fi\n"), 1);
        Ok(())
    }

    /// Removes what [`Trigger::install`] installed.
    pub(crate) fn remove(self, machine: &Machine) -> Result<()> {
        let (name, program) = (self.name, self.program());
        machine.sh(&format!(
            "systemctl stop {name} 2>/dev/null || :
             rm -f {program} {program}.later {program}.held /etc/apt/apt.conf.d/99{name} /etc/xivo-upgrade/*-upgrade.d/50-{name}
             cd /etc/systemd/system
             for service in {SERVICE} {LAST_SERVICE}; do
                 if rm $service.service.d/{name}.conf 2>/dev/null; then rmdir --ignore-fail-on-non-empty $service.service.d; fi
             done
             if dpkg-query --show {UNFINISHED} >/dev/null 2>&1; then dpkg --purge {UNFINISHED} 2>&1; fi
             sed -i 's/^settle = .*/settle = \"0s\"/' /usr/share/xivo-upgrade/product.toml
             systemctl daemon-reload"
        ))?;
        Ok(())
    }

    /// True if the commands have run.
    pub(crate) fn has_fired(self, machine: &Machine) -> Result<bool> {
        Ok(machine.command(&["test", "-e", &self.done()]).run()?.exit == 0)
    }
}
