//! Finds the unit of a process from its control group.

/// The owner of a process, from its control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A service of the system: the name of its unit, `cron.service`.
    Service(String),
    /// A user: the name of the session's scope or of the user's service manager, `session-3.scope` or `user@1000.service`.
    Session(String),
    /// A container or virtual machine, which is upgraded on its own.
    Container,
    /// None: systemd itself, or a program that was not started as a service.
    NoUnit,
}

/// Reads `/proc/PID/cgroup` (cgroups(7)): `0::/system.slice/cron.service`. Machines with the old hierarchies have a line for
/// each of them; systemd's own is called `name=systemd`.
pub(crate) fn owner(text: &str) -> Owner {
    let path = |wanted: &str| {
        text.lines().find_map(|line| {
            let (hierarchy, path) = line.split_once(':')?.1.split_once(':')?;
            (hierarchy == wanted && path != "/").then_some(path)
        })
    };
    path("name=systemd").or_else(|| path("")).map_or(Owner::NoUnit, owner_of_path)
}

fn owner_of_path(path: &str) -> Owner {
    let parts = || path.split('/').filter(|part| !part.is_empty());
    if parts().any(is_container) {
        return Owner::Container;
    }
    // A service may have its own groups below it; a user's service manager has services below it. systemd puts a `_` in front of names
    // that would clash with the kernel's, such as `cpu.service` (its `cg_escape`).
    for part in parts().map(|part| part.strip_prefix('_').unwrap_or(part)) {
        if is_session(part) {
            return Owner::Session(part.to_owned());
        }
        if part.strip_suffix(".service").is_some_and(|name| !name.is_empty()) {
            return Owner::Service(part.to_owned());
        }
    }
    Owner::NoUnit
}

fn is_session(unit: &str) -> bool {
    unit.starts_with("user@") || (unit.starts_with("session-") && is_scope(unit))
}

fn is_scope(unit: &str) -> bool {
    unit.strip_suffix(".scope").is_some()
}

/// The names of the groups of systemd-machined, Docker, Podman, LXC and Kubernetes.
fn is_container(part: &str) -> bool {
    matches!(part, "machine.slice" | "docker" | "lxc")
        || (is_scope(part) && ["docker-", "libpod-", "crio-", "cri-containerd-"].iter().any(|p| part.starts_with(p)))
        || ["lxc.", "libpod-payload", "kubepods"].iter().any(|prefix| part.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_process_belongs_to_the_unit_that_its_group_names() {
        let service = |name: &str| Owner::Service(name.to_owned());
        let session = |name: &str| Owner::Session(name.to_owned());
        for (text, expected) in [
            ("0::/system.slice/cron.service\n", service("cron.service")),
            (
                "0::/system.slice/system-postgresql.slice/postgresql@15-main.service",
                service("postgresql@15-main.service"),
            ),
            ("0::/system.slice/_cpu.service/worker", service("cpu.service")),
            ("12:cpu:/x\n1:name=systemd:/system.slice/a.service\n0::/\n", service("a.service")),
            ("13:hugetlb:/\n9:name=systemd:/\n0::/system.slice/a.service\n", service("a.service")),
            ("0::/user.slice/user-0.slice/session-3.scope", session("session-3.scope")),
            ("0::/user.slice/user-7.slice/user@7.service/app.slice/a.service", session("user@7.service")),
            ("0::/system.slice/docker-0123abcd.scope", Owner::Container),
            ("0::/system.slice/docker.service", service("docker.service")),
            ("0::/docker/0123abcd", Owner::Container),
            ("0::/machine.slice/systemd-nspawn@a.service/payload/system.slice/cron.service", Owner::Container),
            ("0::/system.slice/phone.service/libpod-payload-0123", Owner::Container),
            ("0::/lxc.payload.a/system.slice/cron.service", Owner::Container),
            ("0::/init.scope", Owner::NoUnit),
            ("0::/", Owner::NoUnit),
            ("0::/.service", Owner::NoUnit),
            ("", Owner::NoUnit),
        ] {
            assert_eq!(owner(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_text_nothing_breaks(text: String, path in "[/a-z@.:=-]{0,40}") {
            let _ = owner(&text);
            let _ = owner(&format!("0::{path}\n1:name=systemd:{text}"));
        }
    }
}
