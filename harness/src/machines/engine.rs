//! The container engine: how it is found, and how containers of killed runs are removed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
};

use crate::runtime::block_on;

/// The label of our containers and networks: the process that made them.
pub const OWNER: &str = "xivo-upgrade.owner";

/// How long the engine may take to remove what killed runs have left.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(60);

/// A container engine that answers.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
}

impl Engine {
    /// Connects to the engine of `DOCKER_HOST`, or else to the usual socket. If none answers, the error says how to get one.
    pub fn connect() -> Result<Self> {
        Self::answering(Docker::connect_with_defaults())
    }

    /// Connects to the engine at an address, `unix:///run/podman/podman.sock` for example.
    pub fn at(address: &str) -> Result<Self> {
        Self::answering(Docker::connect_with_host(address))
    }

    fn answering(docker: Result<Docker, testcontainers::bollard::errors::Error>) -> Result<Self> {
        let docker = docker.context("DOCKER_HOST is not the address of an engine")?;
        block_on(docker.ping()).map_err(|error| anyhow!("no container engine answers ({error}): run `make setup`"))?;
        Ok(Self { docker })
    }

    /// Finds an engine that answers: `DOCKER_HOST`, the usual socket, or one of Podman's.
    ///
    /// Returns the value for `DOCKER_HOST` with which other programs find it; empty if they need none.
    #[must_use]
    pub fn find() -> Option<String> {
        if Self::connect().is_ok() {
            return Some(std::env::var("DOCKER_HOST").unwrap_or_default());
        }
        if std::env::var_os("DOCKER_HOST").is_some() {
            return None;
        }
        let user =
            std::env::var_os("XDG_RUNTIME_DIR").map(|directory| PathBuf::from(directory).join("podman/podman.sock"));
        user.into_iter().chain([PathBuf::from("/run/podman/podman.sock")]).find_map(|socket| {
            let address = format!("unix://{}", socket.display());
            Self::at(&address).ok().map(|_| address)
        })
    }

    /// Its client.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The address at which containers reach this host: the gateway of the bridge they are on or, if the engine is another
    /// machine, the address of ours that faces it.
    pub fn this_host(&self) -> Result<IpAddr> {
        if let Some(remote) = std::env::var("DOCKER_HOST").ok().as_deref().and_then(|host| host.strip_prefix("tcp://"))
        {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            // Sends nothing; the kernel chooses the route.
            socket
                .connect(remote.trim_end_matches('/'))
                .with_context(|| format!("DOCKER_HOST: no route to {remote}"))?;
            let address = socket.local_addr()?.ip();
            if !address.is_loopback() {
                return Ok(address);
            }
        }
        // Docker's name for the network, and Podman's.
        ["bridge", "podman"]
            .into_iter()
            .filter_map(|name| block_on(self.docker.inspect_network(name, None)).ok()?.ipam?.config)
            .flatten()
            .find_map(|config| match config.gateway {
                Some(gateway) => gateway.parse().ok(),
                None => first_of(&config.subnet?),
            })
            .context("the engine has no network that a machine could reach this host through")
    }

    /// Removes every container and network of ours.
    pub fn remove_all(&self) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        for id in self.containers(|_| true)? {
            block_on(self.docker.remove_container(&id, Some(options.clone())))?;
        }
        for id in self.networks(|_| true)? {
            block_on(self.docker.remove_network(&id))?;
        }
        Ok(())
    }

    /// The resource limits that containers must be given by hand: name, and soft and hard limit in one.
    ///
    /// Docker's containers have those of its daemon. Podman raises some to fixed values, which fails on hosts that may not
    /// raise any: there they are low enough to be granted everywhere.
    pub fn limits(&self) -> Result<&'static [(&'static str, i64)]> {
        let components = block_on(self.docker.version())?.components.unwrap_or_default();
        let podman = components.iter().any(|component| component.name.contains("Podman"));
        Ok(if podman { &[("nofile", 4096), ("nproc", 16_384)] } else { &[] })
    }

    /// True if root of a container is another user on the engine's host.
    pub fn isolates(&self) -> Result<bool> {
        let options = block_on(self.docker.info())?.security_options.unwrap_or_default();
        Ok(options.iter().any(|option| option.split(',').any(|one| one == "name=userns")))
    }

    /// Removes the containers and networks whose owners are dead, and returns their number.
    pub fn sweep(&self) -> Result<usize> {
        let found = self.containers(is_left_behind)?;
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let deadline = Instant::now() + SWEEP_TIMEOUT;
        let mut left = found.clone();
        while !left.is_empty() {
            for id in &left {
                // Another run may be removing it at the same time.
                let _ = block_on(self.docker.remove_container(id, Some(options.clone())));
            }
            left = self.containers(is_left_behind)?;
            ensure!(Instant::now() < deadline, "these containers cannot be removed: {}", left.join(" "));
        }
        let networks = self.networks(is_left_behind)?;
        for id in &networks {
            // As above.
            let _ = block_on(self.docker.remove_network(id));
        }
        Ok(found.len() + networks.len())
    }

    /// The containers that a process of this host made.
    pub fn owned_by(&self, process: u32) -> Result<Vec<String>> {
        self.containers(|owner| owner.is_some_and(|owner| owner.process == process))
    }

    /// The identifiers of our containers whose owner matches.
    fn containers(&self, matches: impl Fn(Option<&Owner>) -> bool) -> Result<Vec<String>> {
        let options = ListContainersOptionsBuilder::default().all(true).filters(&ours()).build();
        let containers = block_on(self.docker.list_containers(Some(options)))?.into_iter();
        Ok(containers.filter(|one| matches(owner(one.labels.as_ref()).as_ref())).filter_map(|one| one.id).collect())
    }

    /// The same for networks.
    fn networks(&self, matches: impl Fn(Option<&Owner>) -> bool) -> Result<Vec<String>> {
        let options = ListNetworksOptionsBuilder::default().filters(&ours()).build();
        let networks = block_on(self.docker.list_networks(Some(options)))?.into_iter();
        Ok(networks.filter(|one| matches(owner(one.labels.as_ref()).as_ref())).filter_map(|one| one.id).collect())
    }
}

/// The engine's filter for containers and networks of ours.
fn ours() -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![OWNER.to_owned()])])
}

/// The owner of a container or network with these labels.
fn owner(labels: Option<&HashMap<String, String>>) -> Option<Owner> {
    Owner::parse(labels?.get(OWNER)?)
}

/// True unless the process that made a container or network may be alive.
fn is_left_behind(owner: Option<&Owner>) -> bool {
    !owner.is_some_and(Owner::may_be_alive)
}

/// A process, identified across reboots and reuse of its pid: boot, namespace, pid and start time.
#[derive(Debug, PartialEq, Eq)]
pub struct Owner {
    /// This host and this boot of it.
    boot: String,
    /// The inode of its pid namespace.
    namespace: u64,
    process: u32,
    started: String,
}

impl Owner {
    /// This process.
    #[must_use]
    pub fn this() -> Self {
        let process = std::process::id();
        Self { boot: boot(), namespace: namespace(), process, started: started(process).unwrap_or_default() }
    }

    /// Reads what [`Display`](std::fmt::Display) wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let owner = Self {
            boot: parts.next()?.to_owned(),
            namespace: parts.next()?.parse().ok()?,
            process: parts.next()?.parse().ok()?,
            started: parts.next()?.to_owned(),
        };
        parts.next().is_none().then_some(owner)
    }

    /// False only if it is certain that the process is gone: nothing is known about those of another host or namespace.
    pub(super) fn may_be_alive(&self) -> bool {
        let boot = boot();
        let host = |boot: &str| boot.split_once('+').map(|(host, _)| host.to_owned());
        if self.boot != boot {
            return host(&self.boot) != host(&boot);
        }
        self.namespace != namespace() || started(self.process).as_ref() == Some(&self.started)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{}", self.boot, self.namespace, self.process, self.started)
    }
}

/// The first address of a subnet, `172.17.0.1` of `172.17.0.0/16`: the engine's own, unless another is configured. After the first start
/// of an engine on a host Docker does not report the gateway of its bridge (moby issue 26799).
fn first_of(subnet: &str) -> Option<IpAddr> {
    let network: Ipv4Addr = subnet.split_once('/')?.0.parse().ok()?;
    Some(Ipv4Addr::from_bits(network.to_bits() + 1).into())
}

/// This host and this boot of it: `MACHINE-ID+BOOT-ID`.
fn boot() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    format!("{}+{}", read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id"))
}

/// The inode of this process's pid namespace.
fn namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map(|namespace| namespace.ino()).unwrap_or_default()
}

/// When a process started, in clock ticks since boot: field 22 of /proc/PID/stat (proc(5)). `None` if there is none, or
/// only its zombie.
fn started(process: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_has_the_first_address_of_its_bridge() {
        assert_eq!(first_of("172.17.0.0/16"), Some(Ipv4Addr::new(172, 17, 0, 1).into()));
        assert_eq!(first_of("172.17.0.0"), None);
    }

    #[test]
    fn a_label_tells_a_live_process_from_a_dead_one() {
        let this = Owner::this();
        assert_eq!(Owner::parse(&this.to_string()), Some(Owner::this()));
        assert!(this.may_be_alive());
        let recycled = Owner { started: "1".to_owned(), ..Owner::this() };
        assert!(!recycled.may_be_alive(), "another process has this pid now");
        let inside = Owner { namespace: 1, ..recycled };
        assert!(inside.may_be_alive(), "a process of another namespace is unknown");
        let earlier = Owner { boot: boot().replace(|last: char| last.is_ascii_hexdigit(), "0"), ..Owner::this() };
        assert!(earlier.may_be_alive(), "a process of another host is unknown");
        let (host, _) = this.boot.split_once('+').unwrap();
        let earlier = Owner { boot: format!("{host}+before"), ..Owner::this() };
        assert!(!earlier.may_be_alive(), "nothing outlives a reboot");
        assert_eq!(Owner::parse("nonsense"), None);
    }
}
