//! A booted machine and the commands it runs.

mod command;
mod shell;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum as _;
pub use command::Command;
use futures_util::StreamExt as _;
use testcontainers::bollard::models::{ContainerConfig, Mount, MountType};
use testcontainers::bollard::query_parameters::{
    CommitContainerOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder, StartContainerOptions,
    UploadToContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use testcontainers::bollard::{Docker, body_full};
use testcontainers::core::{CgroupnsMode, Host};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};

use crate::machines::disk::{Backing, Disk, Filesystem};
use crate::machines::engine::{Engine, OWNER, Owner};
use crate::machines::image::{Image, archive};
use crate::machines::isolation;
use crate::machines::transcript::Transcript;
use crate::runtime::block_on;

/// The name at which a machine reaches the host that tests it.
pub const TESTER: &str = "repository.test";

/// How long a machine may take to boot, and a command to end.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How long the download and installation of packages of Debian may take.
const MIRROR_TIMEOUT: Duration = Duration::from_secs(1200);

/// Separates the outputs of several scripts.
const SEPARATOR: &str = "== the next script ==\n";

/// How many messages may wait while journald writes to the disk; systemd drops what does not fit. On a real machine systemd sets this when it
/// boots (`bump_unix_max_dgram_qlen` of its src/core/main.c), in a container it may not, and the kernel's own value is 10.
const JOURNAL_QUEUE: (&str, &str) = ("net.unix.max_dgram_qlen", "512");

/// Where a machine has its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// In the engine's layers: a filesystem of its own kind (overlayfs), on which another name for a file of a lower layer is a copy.
    Layers,
    /// /usr and /var are on the filesystem that the engine's host has, as on a machine in the field. They are no part of what
    /// [`Machine::save`] keeps.
    Host,
    /// The whole root is a filesystem on a disk of its own. It is no part of what [`Machine::save`] keeps.
    Disk(Filesystem),
    /// The same, and this process answers when the disk is read and written. That can be recorded, delayed, and made to fail.
    ServedDisk(Filesystem),
}

impl Storage {
    /// What the environment variable `STORAGE` names: `layers`, `host`, or the filesystem of a disk. Without it, layers.
    ///
    /// # Errors
    /// If it names something else.
    pub fn wanted() -> Result<Self> {
        let Some(name) = std::env::var_os(STORAGE).filter(|name| !name.is_empty()) else { return Ok(Self::Layers) };
        let name = name.to_string_lossy();
        match &*name {
            "layers" => Ok(Self::Layers),
            "host" => Ok(Self::Host),
            _ => match Filesystem::from_str(&name, false) {
                Ok(filesystem) => Ok(Self::Disk(filesystem)),
                Err(_) => bail!("{STORAGE}={name}: it must be layers, host, ext4, xfs or btrfs"),
            },
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layers => f.write_str("layers"),
            Self::Host => f.write_str("host"),
            Self::Disk(filesystem) | Self::ServedDisk(filesystem) => filesystem.fmt(f),
        }
    }
}

/// Names the storage of the machines of tests, cells and injection points: [`Storage::wanted`].
const STORAGE: &str = "STORAGE";

/// What is on the host's filesystem with [`Storage::Host`].
const ON_HOST: [&str; 2] = ["/usr", "/var"];

/// Where a container has the disk that becomes its root.
const ROOT: &str = "/disk";

/// Makes the disk the root of the container, with a boot identifier of its own, and becomes process 1 there. The engine's commands follow, since
/// the root of a mount namespace is what setns(2) leads to.
const PIVOT: &str = "umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
cat /proc/sys/kernel/random/uuid >/run/boot-id; mount --bind /run/boot-id /proc/sys/kernel/random/boot_id
for name in proc sys dev run tmp; do mkdir -p /disk/$name; mount --rbind /$name /disk/$name; done
for name in hosts hostname resolv.conf; do touch /disk/etc/$name; mount --bind /etc/$name /disk/etc/$name; done
cd /disk; mkdir -p run/before; pivot_root . run/before; umount -l /run/before
exec /sbin/init";

/// A booted Debian machine: a container in which systemd is process 1. Removed when dropped.
#[derive(Debug)]
pub struct Machine {
    docker: Docker,
    container: Option<ContainerAsync<GenericImage>>,
    /// Its root, if that is a disk; released after the container.
    disk: Option<Disk>,
    /// True if its root is not root of the engine's host.
    isolated: bool,
}

impl Machine {
    /// Boots a machine that has its files there, and waits until systemd has started everything.
    pub fn boot(storage: Storage, engine: &Engine, image: &Image) -> Result<Self> {
        let disk = match storage {
            Storage::Disk(filesystem) => Some(Disk::of_image(filesystem, Backing::Kernel, engine, image)?),
            Storage::ServedDisk(filesystem) => Some(Disk::of_image(filesystem, Backing::Served, engine, image)?),
            Storage::Layers | Storage::Host => None,
        };
        Self::start(storage, disk, engine, image)
    }

    /// Boots a machine from a disk. The image has nothing but the program that makes the disk its root.
    pub fn boot_disk(disk: Disk, engine: &Engine, image: &Image) -> Result<Self> {
        Self::start(Storage::Disk(disk.filesystem()), Some(disk), engine, image)
    }

    fn start(storage: Storage, disk: Option<Disk>, engine: &Engine, image: &Image) -> Result<Self> {
        let root = disk.as_ref().map(|disk| disk.path().display().to_string());
        let tester = engine.this_host()?;
        ensure!(image.exists(engine), "there is no machine image {image}: run `make setup`");
        let isolated = engine.isolates()?;
        ensure!(
            !isolated || disk.is_none(),
            "a disk cannot be the root of a machine in a user namespace: leave out {STORAGE}, or use another engine"
        );
        let image = GenericImage::new(&image.repository, &image.tag);
        let entry = if isolated { Some(isolation::BOOT) } else { disk.is_some().then_some(PIVOT) };
        let request = match entry {
            Some(script) => image.with_entrypoint("/bin/sh").with_cmd(["-ec", script]),
            None => image.into(),
        };
        // An old filter of an engine refuses calls of a new systemd, so only machines that need protection have it.
        let request = if isolated { request } else { request.with_security_opt("seccomp=unconfined") };
        let request = request
            .with_label(OWNER, Owner::this().to_string())
            .with_hostname("exchange")
            .with_host(TESTER, Host::Addr(tester))
            // All that systemd needs of a container; no privileges.
            .with_cap_add("SYS_ADMIN")
            // As on a real machine, root reads the memory maps of all processes.
            .with_cap_add("SYS_PTRACE")
            .with_security_opt("apparmor=unconfined")
            .with_cgroupns_mode(CgroupnsMode::Private)
            .with_startup_timeout(TIMEOUT)
            .with_host_config_modifier(move |host| {
                if storage == Storage::Host {
                    // Volumes without a name begin as what the image has there, and go with the container.
                    let volume = |path: &str| Mount {
                        target: Some(path.to_owned()),
                        typ: Some(MountType::VOLUME),
                        ..Mount::default()
                    };
                    host.mounts = Some(ON_HOST.map(volume).into());
                }
                host.binds = root.as_ref().map(|root| vec![format!("{root}:{ROOT}")]);
                let tmpfs = ["/run", "/run/lock", "/tmp"].map(|path| (path.to_owned(), "exec".to_owned()));
                host.tmpfs = Some(tmpfs.into());
                host.pids_limit = isolated.then_some(isolation::PROCESSES);
                host.sysctls = Some([JOURNAL_QUEUE].map(|(name, value)| (name.to_owned(), value.to_owned())).into());
            });
        let limits = engine.limits()?.iter();
        let request = limits.fold(request, |request, (name, limit)| request.with_ulimit(name, *limit, Some(*limit)));
        let container = block_on(request.start()).context("the machine's container does not start")?;
        let machine = Self { docker: engine.docker().clone(), container: Some(container), disk, isolated };
        if isolated {
            isolation::give_cgroup(&machine.docker, machine.id()?)?;
        }
        let booted = machine.booted()?;
        ensure!(booted == "running", "the machine came up {booted}: {}", machine.sh("systemctl --failed --no-legend")?);
        Ok(machine)
    }

    /// A command about to run on the machine, as root and without a terminal. Several may run at once, each in a thread of its own.
    #[must_use]
    pub fn command<'a>(&'a self, command: &[&str]) -> Command<'a> {
        Command::new(self, command)
    }

    /// Runs a shell script, if it is not empty, and returns what it printed. If it fails, the error has what it printed.
    pub fn sh(&self, script: &str) -> Result<String> {
        if script.is_empty() {
            return Ok(String::new());
        }
        let Transcript { screen, exit, .. } = self.command(&["sh", "-euc", script]).run()?;
        ensure!(exit == 0, "`{script}` failed with exit code {exit} on the machine:\n{screen}");
        Ok(screen)
    }

    /// Waits until a condition of the shell holds.
    pub fn wait_until(&self, condition: &str) -> Result<()> {
        let script = format!("timeout 120 sh -c 'until {condition}; do sleep 0.02; done'");
        self.sh(&script).with_context(|| format!("waiting for `{condition}`")).map(drop)
    }

    /// The version of an installed package.
    pub fn version(&self, package: &str) -> Result<String> {
        self.sh(&format!("dpkg-query --show --showformat='${{Version}}' {package}"))
    }

    /// Runs several shell scripts, one after the other, as one command, and returns what each printed: to start a command costs the engine
    /// more than most scripts. If one fails, the error has what was printed so far.
    pub fn ask<const N: usize>(&self, questions: [&str; N]) -> Result<[String; N]> {
        let scripts = questions.map(|script| format!("(\n:\n{script}\n)\n"));
        let printed = self.sh(&scripts.join(&format!("printf %s '{SEPARATOR}'\n")))?;
        let answers: Vec<String> = printed.split(SEPARATOR).map(str::to_owned).collect();
        answers.try_into().map_err(|_| anyhow!("the output does not have one part for each script:\n{printed}"))
    }

    /// Writes a file, and the directories it needs. Not below /run and /tmp: those are in memory, where the engine cannot
    /// write.
    pub fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        self.write_all(&[(path, content, mode)])
    }

    /// The same with several files at once: path, content and mode of each.
    pub fn write_all(&self, files: &[(&str, &[u8], u32)]) -> Result<()> {
        // The engine sees the container as it was before the disk became its root.
        let root = self.disk.as_ref().map_or("", |_| ROOT);
        for (path, ..) in files {
            ensure!(!path.starts_with("/run/") && !path.starts_with("/tmp/"), "{path} is in memory");
        }
        let entry = |(path, content, mode): &(&str, _, _)| {
            (format!("{root}{path}").trim_start_matches('/').to_owned(), *content, *mode)
        };
        let body = body_full(archive(files.iter().map(entry))?.into());
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        block_on(self.docker.upload_to_container(self.id()?, Some(options), body))
            .with_context(|| files.iter().map(|(path, ..)| *path).collect::<Vec<_>>().join(", "))
    }

    /// Installs packages from Debian's own sources, which the machine knows only while this lasts.
    pub fn install_from_debian(&self, packages: &[&str]) -> Result<()> {
        let installed = self.command(&["sh", "-euc", &from_debian(packages)]).timeout(MIRROR_TIMEOUT).run()?;
        ensure!(installed.exit == 0, "packages of Debian could not be installed: {installed}");
        self.sh("apt-get clean").map(drop)
    }

    /// Cuts the machine's power: every process is gone at once, and what was in memory with it.
    pub fn cut_power(&self) -> Result<()> {
        // The kernel kills them one by one: the remaining ones must not notice that others are gone, and log it.
        self.sh("kill -STOP -1")?;
        let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
        block_on(self.docker.kill_container(self.id()?, Some(options))).context("the power cannot be cut")
    }

    /// Boots the machine again, and waits until all units have started.
    pub fn power_on(&self) -> Result<()> {
        self.begin_boot()?;
        self.booted().map(drop)
    }

    /// Begins to boot the machine again, and waits for nothing.
    pub fn begin_boot(&self) -> Result<()> {
        block_on(self.docker.start_container(self.id()?, None::<StartContainerOptions>))
            .context("the machine does not start again")?;
        if self.isolated { isolation::give_cgroup(&self.docker, self.id()?) } else { Ok(()) }
    }

    /// Shuts the machine down in good order, although a program may have a lock against that.
    pub fn shut_down(&self) -> Result<()> {
        // systemd stops the machine while the command waits for an answer.
        let _ = self.command(&["systemctl", "poweroff", "--check-inhibitors=no"]).run();
        let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
        let mut ended = self.docker.wait_container(self.id()?, Some(options));
        // The exit code of process 1 is no error.
        let _ = block_on(async { tokio::time::timeout(TIMEOUT, ended.next()).await })
            .context("the machine does not shut down")?;
        Ok(())
    }

    /// Waits until systemd has started everything, and returns its state: `running` or `degraded`.
    fn booted(&self) -> Result<String> {
        // systemctl fails until D-Bus is up, which is a little after process 1.
        let said = self.sh(
            "until systemctl is-system-running --wait 2>/dev/null | grep -E 'running|degraded'; do sleep 0.02; done",
        )?;
        Ok(said.trim().to_owned())
    }

    /// Saves the machine's disk as an image from which others can boot. What is in memory (/run, /tmp) is not part of it.
    pub fn save(&self, image: &Image) -> Result<()> {
        let id = self.id()?.to_owned();
        let options = CommitContainerOptionsBuilder::default()
            .container(&id)
            .repo(&image.repository)
            .tag(&image.tag)
            .pause(true)
            .build();
        block_on(self.docker.commit_container(options, ContainerConfig::default()))
            .with_context(|| image.to_string())?;
        Ok(())
    }

    /// The identifier of its container, as the engine shows it.
    pub fn name(&self) -> Result<String> {
        Ok(self.id()?.chars().take(12).collect())
    }

    /// The address at which other machines reach it.
    pub fn address(&self) -> Result<IpAddr> {
        let container = block_on(self.docker.inspect_container(self.id()?, None::<InspectContainerOptions>))?;
        let networks = container.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let address = networks.into_values().find_map(|network| network.ip_address?.parse().ok());
        address.context("the machine has no address")
    }

    /// The disk that is its root, if it has one.
    #[must_use]
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    pub(crate) fn id(&self) -> Result<&str> {
        Ok(self.container.as_ref().context("the machine is gone")?.id())
    }
}

/// The script that installs packages from Debian's own sources.
pub(crate) fn from_debian(packages: &[&str]) -> String {
    format!(
        "sources='-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=/etc/apt/debian-sources'
        apt-get -qq $sources update
        DEBIAN_FRONTEND=noninteractive apt-get -qq -y $sources --no-install-recommends install {} 2>&1",
        packages.join(" ")
    )
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(container) = self.container.take() {
            // What cannot be removed now is removed by the next run's sweep.
            let _ = block_on(container.rm());
        }
        drop(self.disk.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_run_at_once_from_several_threads() {
        fn shared_by_threads<T: Send + Sync>() {}
        shared_by_threads::<Machine>();
        shared_by_threads::<crate::machines::world::World>();
    }
}
