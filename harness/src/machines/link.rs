//! A network between two machines that can be cut.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use testcontainers::bollard::Docker;
use testcontainers::bollard::models::{NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest};

use crate::machines::engine::{Engine, OWNER, Owner};
use crate::machines::machine::Machine;
use crate::runtime::block_on;

/// A cable between two machines: a network of their own. Removed when dropped.
#[derive(Debug)]
pub struct Link {
    docker: Docker,
    network: String,
    /// The machines' containers.
    ends: [String; 2],
}

impl Link {
    /// Connects two machines, which keep the network that they have.
    pub fn between(engine: &Engine, machines: [&Machine; 2]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let [one, other] = machines.map(|machine| machine.id().map(str::to_owned));
        let name = format!("xivo-upgrade-link-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let request = NetworkCreateRequest {
            name,
            labels: Some(HashMap::from([(OWNER.to_owned(), Owner::this().to_string())])),
            ..NetworkCreateRequest::default()
        };
        let network = block_on(engine.docker().create_network(request)).context("no network can be made")?.id;
        let link = Self { docker: engine.docker().clone(), network, ends: [one?, other?] };
        for end in &link.ends {
            let request = NetworkConnectRequest { container: end.clone(), endpoint_config: None };
            block_on(link.docker.connect_network(&link.network, request)).context("a machine cannot be connected")?;
        }
        Ok(link)
    }

    /// The addresses of the machines on it.
    pub fn addresses(&self) -> Result<[IpAddr; 2]> {
        let containers = block_on(self.docker.inspect_network(&self.network, None))?.containers.unwrap_or_default();
        let address = |end: &String| {
            let address = containers.get(end).and_then(|container| container.ipv4_address.as_deref());
            let address = address.and_then(|address| address.split('/').next());
            address.and_then(|address| address.parse().ok()).context("a machine has no address on the link")
        };
        Ok([address(&self.ends[0])?, address(&self.ends[1])?])
    }

    /// Pulls the cable: nothing that one machine sends reaches the other.
    pub fn cut(&self) -> Result<()> {
        self.ends.iter().try_for_each(|end| self.pull(end)).context("the link cannot be cut")
    }

    fn pull(&self, end: &str) -> Result<()> {
        let request = NetworkDisconnectRequest { container: end.to_owned(), force: Some(true) };
        Ok(block_on(self.docker.disconnect_network(&self.network, request))?)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for end in &self.ends {
            // Its machine may be gone.
            let _ = self.pull(end);
        }
        // What cannot be removed now is removed by the next run's sweep.
        let _ = block_on(self.docker.remove_network(&self.network));
    }
}
