//! Upgrades with edited conffiles, and packages that try to ask questions.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use harness::machines::image::Debian;
use harness::machines::machine::Storage;
use harness::machines::product_machine::{self, upgradable};
use harness::machines::world::World;
use harness::packages::package::Package;
use harness::packages::release::Release;
use serde_json::Value;
use upgrader::model::conffile::ConffileResult;

use crate::scenario::scenarios;

scenarios! {
    /// By default the upgrade replaces edited conffiles without a question, keeps the admin's version, and reports each of them before and after.
    Compared conffiles_replaced;
    /// With the setting for it the upgrade keeps edited conffiles and saves the package's version beside them.
    Compared conffiles_kept;
    /// A package that asks through debconf, stdin or the terminal gets no answer and does not block the upgrade.
    Checked packages_cannot_ask;
}

/// The files of a package with a conffile of every kind, by what the admin does to them. `dropped` ones are not in the new
/// version, and its scripts remove them; `added` is only in that one.
const OLD: [&str; 8] =
    ["deleted", "dropped", "dropped-edited", "edited", "edited-but-not-by-us", "linked", "obsolete", "untouched"];

/// A package whose conffiles differ from version to version, but for one.
fn settings(version: &str) -> Package {
    let path = |name: &str| format!("/etc/settings/{name}.conf");
    let mut package = Package::new("xivo-settings", version);
    for name in OLD {
        let gone = version != "1.0" && (name.starts_with("dropped") || name == "obsolete");
        let text = if name == "edited-but-not-by-us" { "always".to_owned() } else { format!("of {version}") };
        if !gone {
            package = package.conffile(&path(name), format!("# {name}\n{text}\n"));
        }
    }
    if version != "1.0" {
        package = package.conffile(&path("added"), "# added\n");
        let removed = ["dropped", "dropped-edited"]
            .map(|name| format!("dpkg-maintscript-helper rm_conffile {} 1.1~ -- \"$@\"\n", path(name)))
            .concat();
        for script in ["preinst", "postinst", "postrm"] {
            package.script_mut(script).push_str(&removed);
        }
    }
    // The same by way of ucf, where it is installed.
    package = package.file("/usr/share/settings/by-ucf.conf", format!("# by-ucf\nof {version}\n"), 0o644);
    let ucf = "if [ \"$1\" = configure ]; then ucf /usr/share/settings/by-ucf.conf /etc/settings/by-ucf.conf
               ucfr xivo-settings /etc/settings/by-ucf.conf; fi\n";
    package.script_mut("postinst").push_str(ucf);
    package.control("Depends", "ucf")
}

/// A machine on which an admin has changed conffiles in every way, before an upgrade that changes them.
fn edited_machine(debian: Debian) -> Result<World> {
    let mut world = product_machine::with_debian_packages(Storage::wanted()?, debian, "ucf", &["ucf"], "")?;
    world.publish(Release::named("1.2.1")?.packages.iter().chain([&settings("1.0"), &product_machine::upgrader()?]))?;
    world.install(&["xivo", "xivo-settings", "xivo-upgrade"])?;
    world.machine.sh("cd /etc/settings
         for name in edited dropped-edited edited-but-not-by-us by-ucf; do echo mine >>$name.conf; done
         rm deleted.conf
         mv linked.conf /srv/; echo mine >>/srv/linked.conf; ln -s /srv/linked.conf linked.conf
         echo 'language = de' >/etc/xivo/xivo.conf")?;
    // Many machines have this, and it would override the settings of the product and the admin.
    let keep = b"Dpkg::Options { \"--force-confdef\"; \"--force-confold\"; };\n";
    world.machine.write("/etc/apt/apt.conf.d/10conffiles", keep, 0o644)?;
    world.publish(Release::named("1.2.2")?.packages.iter().chain([&settings("1.1")]))?;
    Ok(world)
}

/// The files below /etc/settings with their content, and the target of the link.
fn on_disk(world: &World) -> Result<String> {
    world.machine.sh(
        "cd /; for file in $(find /etc/settings /srv /etc/xivo/xivo.conf* -type f -o -type l | LC_ALL=C sort); do
         if [ -h $file ]; then echo \"  $file -> $(readlink $file)\"
         else echo \"  $file: $(tr '\\n' '|' <$file)\"; fi; done",
    )
}

/// The part of a plan that is about conffiles.
fn planned(screen: &str) -> Result<&str> {
    let (_, start) = screen.split_once("Configuration files").context("no conffiles in the plan")?;
    Ok(start.split_once("\n\n").context("the plan does not end")?.0)
}

/// Everything that the upgrader reports of conffiles, and the files on disk.
fn reported(world: &World, screen: &str, report: &Value) -> Result<String> {
    let mut shown = format!("In the plan:\nConfiguration files{}\n\nOn the screen at the end:\n", planned(screen)?);
    let (_, end) = screen.split_once("nginx                    OK\n").context("no restart")?;
    shown.push_str(end);
    let log = world.machine.sh("cat /var/log/xivo-upgrade.log")?;
    writeln!(shown, "\nIn the report:")?;
    for entry in report["conffiles"].as_array().context("no conffiles")? {
        let path = entry["path"].as_str().context("no path")?;
        let sum = |key: &str| entry[key].as_str().map_or("none", |sum| &sum[..6]).to_owned();
        writeln!(
            shown,
            "  {path}: {} ({} -> {}){}",
            entry["outcome"].as_str().unwrap_or_default(),
            sum("sha256_before"),
            sum("sha256_after"),
            entry["other"].as_str().map_or_else(String::new, |other| format!(", and {other}")),
        )?;
        // The report is true.
        if let Some(sum) = entry["sha256_after"].as_str() {
            let real = world.machine.sh(&format!("sha256sum <{path}"))?;
            ensure!(real.starts_with(sum), "{path} is {real}, and the report says {sum}");
        } else {
            world.machine.sh(&format!("test ! -e {path}"))?;
        }
        let result: ConffileResult = serde_json::from_value(entry.clone())?;
        ensure!(log.contains(&format!("conffile: {result}\n")), "the log does not have: {result}");
    }
    writeln!(shown, "\nDifferences in the log:")?;
    for line in log.lines().filter_map(|line| line.split_once(" diff: ").map(|(_, line)| line)) {
        // A file's name comes with its time.
        writeln!(shown, "  {}", line.split('\t').next().unwrap_or_default())?;
    }
    writeln!(shown, "\nOn disk:\n{}", on_disk(world)?)?;
    Ok(shown)
}

fn conffiles_replaced(debian: Debian) -> Result<String> {
    let world = edited_machine(debian)?;
    let transcript = world.upgrade(&[]).answer("[Y/n] ", "y\n").exits(0)?;
    let history = world.upgrade(&["history", "--json"]).run()?;
    let reports: Value = serde_json::from_str(&history.screen).context("the history is no JSON")?;
    reported(&world, &transcript.screen, &reports[0])
}

fn conffiles_kept(debian: Debian) -> Result<String> {
    let world = edited_machine(debian)?;
    world.machine.write("/etc/xivo-upgrade/config.toml", b"conffiles = \"keep\"\n", 0o644)?;
    // A program reads the report from stdout; the screen goes to stderr.
    let report = world.machine.sh("xivo-upgrade --yes --json 2>/root/screen")?;
    let report: Value = serde_json::from_str(&report).context("the report is no JSON")?;
    ensure!(report["exit_code"] == 0, "{report}");
    reported(&world, &world.machine.sh("cat /root/screen")?, &report)
}

fn packages_cannot_ask(debian: Debian) -> Result<()> {
    let mut world = upgradable(debian)?;
    world.publish([&Package::new("xivo-curious", "1.0")])?;
    world.install(&["xivo-curious"])?;
    let templates = "Template: xivo-curious/colour\nType: string\nDefault: grey\nDescription: Which colour?\n Any.\n";
    let question =
        "#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_input critical xivo-curious/colour || true\ndb_go\n";
    let answer = "db_get xivo-curious/colour\necho \"colour $RET\" >>/root/answers\ndb_stop\n";
    // debconf takes stdin for itself; a script without it has the one of dpkg.
    let preinst = "#!/bin/sh\nset -e\nread answer || answer=nothing\necho \"stdin $answer\" >>/root/answers\n\
                   if (: </dev/tty) 2>/dev/null; then answer=there; else answer='not there'; fi\n\
                   echo \"terminal $answer\" >>/root/answers\n";
    let curious = Package::new("xivo-curious", "1.1")
        .control("Depends", "debconf")
        .script("templates", templates)
        .script("config", question)
        .script("postinst", format!("{question}{answer}"))
        .script("preinst", preinst);
    world.publish([&curious])?;
    // An admin at a terminal who prefers debconf's dialog.
    let transcript = world.upgrade(&[]).env("DEBIAN_FRONTEND", "dialog").answer("[Y/n] ", "y\n").exits(0)?;
    ensure!(!transcript.screen.contains("colour"), "a question was asked: {transcript}");
    let answers = world.machine.sh("cat /root/answers")?;
    ensure!(answers == "stdin nothing\nterminal not there\ncolour grey\n", "the answers are:\n{answers}");
    Ok(())
}
