//! Several machines, and one with Ansible that upgrades them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::at_once::all;
use crate::data;
use crate::machines::engine::Engine;
use crate::machines::image::Debian;
use crate::machines::machine::{Machine, Storage};
use crate::machines::product_machine::{debian_packages, installed_image, upgrader};
use crate::machines::transcript::Transcript;
use crate::machines::world::World;
use crate::packages::release::Release;

/// What Ansible needs of a machine.
const ON_NODES: [&str; 2] = ["python3", "openssh-server"];

/// What it is started with.
const ON_CONTROLLER: [&str; 2] = ["ansible-core", "openssh-client"];

/// Where the role is in this tree, and on the controller.
const ROLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ansible");
const THERE: &str = "/root/fleet";

/// Several machines at an old release, and one with Debian's own Ansible that reaches them by ssh.
#[derive(Debug)]
pub struct Fleet {
    /// The machine that Ansible runs on.
    pub controller: Machine,
    /// The machines that are upgraded, with their names.
    nodes: Vec<(String, World)>,
}

/// A line of an inventory: a machine's name, and its variables as Ansible reads them: `upgrade_node_role=passive`.
pub type Line<'a> = (&'a str, &'a str);

impl Fleet {
    /// Boots the machines of an inventory, at 1.2.1, with 1.2.2 published for each. `canary` names the one that goes first.
    pub fn boot(debian: Debian, inventory: &[Line<'_>], canary: &str) -> Result<Self> {
        let engine = Engine::connect()?;
        engine.sweep()?;
        let controller = debian_packages(&engine, debian, "controller", &ON_CONTROLLER, KEY)?;
        let nodes = debian_packages(&engine, debian, "fleet", &ON_NODES, "")?;
        let packages: Vec<_> = Release::named("1.2.1")?.packages.into_iter().chain([upgrader()?]).collect();
        let nodes = installed_image(&engine, &format!("{debian}-fleet-ready"), &nodes, &packages, "xivo xivo-upgrade")?;
        let new: Vec<_> = Release::named("1.2.2")?.packages.into_iter().chain([upgrader()?]).collect();

        let controller = Machine::boot(Storage::Layers, &engine, &controller)?;
        let key = controller.sh("cat /root/.ssh/id_ed25519.pub")?;
        let nodes = all(inventory, |(name, _)| {
            let mut world = World::boot_image(Storage::Layers, &engine, &nodes)?;
            world.publish(&new)?;
            world.machine.write("/root/.ssh/authorized_keys", key.as_bytes(), 0o600)?;
            Ok(((*name).to_owned(), world))
        })?;

        let fleet = Self { controller, nodes };
        let mut text = String::new();
        for ((name, world), (_, variables)) in fleet.nodes.iter().zip(inventory) {
            writeln!(text, "{name} ansible_host={} {variables}", world.machine.address()?)?;
        }
        write!(text, "[canary]\n{canary}\n{VARIABLES}")?;
        fleet.controller.write(&format!("{THERE}/inventory"), text.as_bytes(), 0o644)?;
        let role = Path::new(ROLE);
        for path in data::files_below(role, &["yml", "cfg"])? {
            let name = path.strip_prefix(role)?.display();
            fleet.controller.write(&format!("{THERE}/{name}"), &fs::read(&path)?, 0o644)?;
        }
        Ok(fleet)
    }

    /// One of its machines.
    pub fn node(&self, name: &str) -> Result<&World> {
        let node = self.nodes.iter().find(|(known, _)| known == name);
        Ok(&node.with_context(|| format!("the fleet has no {name}"))?.1)
    }

    /// Runs the playbook with these arguments.
    pub fn play(&self, arguments: &[&str]) -> Result<Transcript> {
        let words = ["ansible-playbook", "-i", "inventory", "upgrade.yml"];
        let words: Vec<&str> = words.into_iter().chain(arguments.iter().copied()).collect();
        let played = self.controller.command(&words).env("LC_ALL", "C.UTF-8").in_shell(&format!("cd {THERE}")).run()?;
        Ok(Transcript { command: words.join(" "), screen: readable(&played.screen), exit: played.exit })
    }

    /// The report of a machine that lies on the controller, of an upgrade or (`HOST.plan`) of check mode.
    pub fn report(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.controller.sh(&format!("cat {THERE}/reports/{name}.json"))?)?)
    }
}

/// The controller's own key.
const KEY: &str = "mkdir -p -m 700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519";

/// Variables of all machines, as in `inventory.example.yml`. Their host keys are new, so ssh does not check them.
const VARIABLES: &str = "[all:vars]
ansible_user=root
ansible_python_interpreter=/usr/bin/python3
ansible_ssh_common_args='-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR'
upgrade_poll=1
";

/// How the result of a host in a task begins.
const RESULTS: [&str; 5] = ["ok: [", "changed: [", "skipping: [", "fatal: [", "failed: ["];

/// Lines whose number depends on how long Ansible waited.
const WAITING: [&str; 2] = ["ASYNC ", "FAILED - RETRYING: "];

/// How newer versions of Ansible repeat, on stderr, what the result of the host says next.
const REPEATED: &str = "[ERROR]: ";

/// A line that only older versions print.
const THE_END: &str = "NO MORE HOSTS LEFT";

/// What Ansible printed, with the results of each task in the order of the hosts: hosts that work at once finish in any order. Without the
/// stars that fill a line.
fn readable(screen: &str) -> String {
    let mut blocks: Vec<String> = Vec::new();
    let mut text = String::new();
    let flush = |blocks: &mut Vec<String>, text: &mut String| {
        blocks.sort_by_cached_key(|block| {
            let host = block.split(['[', ']']).nth(1).unwrap_or_default();
            host.split(' ').next().unwrap_or_default().to_owned()
        });
        text.extend(blocks.drain(..));
    };
    let mut is_repeated = false;
    for line in screen.lines().filter(|line| !WAITING.iter().any(|word| line.starts_with(word))) {
        let line = line.trim_end().trim_end_matches('*').trim_end();
        let begins = RESULTS.iter().any(|word| line.starts_with(word));
        is_repeated = !begins && (is_repeated || line.starts_with(REPEATED));
        if is_repeated || line == THE_END {
            continue;
        }
        if begins {
            blocks.push(String::new());
        } else if !line.starts_with(' ') {
            flush(&mut blocks, &mut text);
        }
        let target = blocks.last_mut().unwrap_or(&mut text);
        target.push_str(line);
        target.push('\n');
    }
    flush(&mut blocks, &mut text);
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ansible_prints_does_not_depend_on_which_host_is_faster() {
        let printed = "TASK [Upgrade] ****\nASYNC POLL on b: jid=1\nok: [b]\nok: [a] => \n  msg: x\nok: [a -> c] => (item=2)\n\nPLAY RECAP **\n";
        assert_eq!(
            readable(printed),
            "TASK [Upgrade]\nok: [a] =>\n  msg: x\nok: [a -> c] => (item=2)\nok: [b]\n\nPLAY RECAP\n"
        );
        let older = "fatal: [a]: FAILED! =>\n  msg: x\n\nNO MORE HOSTS LEFT ***\n\nPLAY RECAP ***\n";
        let newer = "[ERROR]: Task failed: x\nOrigin: y\n\nfatal: [a]: FAILED! =>\n  msg: x\n\nPLAY RECAP ***\n";
        assert_eq!(readable(older), readable(newer));
    }
}
