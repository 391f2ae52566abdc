//! The services that must not be restarted while the machine is in use.

use crate::system::systemd::Unit;

/// Services that a restart would harm, by the beginnings of the names of their units, and why. After the `override_rc` of
/// needrestart 3.6's configuration as Debian ships it, which collects years of reports of such harm.
const NOT_LIVE: [(&str, &str); 7] = [
    ("dbus. dbus-broker. dbus-daemon.", "all services talk through it"),
    ("systemd-logind. elogind.", "persons are logged in through it"),
    ("getty@ serial-getty@ console-getty. container-getty@ autovt@ ssh@ sshd@", "a user may be logged in through it"),
    ("gdm kdm. nodm. sddm. wdm. xdm. lightdm. slim. lxdm. display-manager.", "it ends a user's desktop session"),
    (
        "networking. systemd-networkd. NetworkManager. network-manager. ModemManager. wpa_supplicant ifup@ openvpn tinc quagga. \
         frr. bird strongswan libreswan. openswan. freeswan. wg-quick@",
        "it interrupts the network",
    ),
    (
        "docker. containerd. lxc libvirt virtlogd. virtlockd. xendomains. systemd-nspawn@",
        "what it runs for others would stop",
    ),
    ("zfs-fuse. emergency. rescue. rc-local. rc.local.", "it belongs to the start of the machine"),
];

/// Why a service cannot be restarted on a machine that is in use. `own` is the unit that the upgrader itself runs in.
pub(crate) fn why_not(unit: &Unit, own: Option<&str>) -> Option<&'static str> {
    if own == Some(unit.id.as_str()) {
        return Some("this upgrade runs in it");
    }
    match unit.load.as_str() {
        "loaded" => {}
        "masked" => return Some("it is masked, so it would not start again"),
        _ => return Some("its unit is gone, so it would not start again"),
    }
    if !unit.is_active() {
        return Some("it is stopped; something that it started still runs");
    }
    if unit.refuses_stop {
        return Some("its unit refuses a manual stop");
    }
    if unit.transient || unit.kind == "oneshot" {
        return Some("its work would start again; it ends by itself");
    }
    NOT_LIVE.iter().find(|(names, _)| names.split(' ').any(|name| unit.id.starts_with(name))).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(id: &str) -> Unit {
        let (load, active) = ("loaded".to_owned(), "active".to_owned());
        Unit { id: id.to_owned(), load, active, ..Unit::default() }
    }

    #[test]
    fn services_that_sessions_or_other_services_depend_on_are_not_restarted() {
        let refused = "dbus.service systemd-logind.service getty@tty1.service ssh@3-10.0.0.1:22.service docker.service";
        for id in refused.split(' ') {
            assert!(why_not(&unit(id), None).is_some(), "{id}");
        }
        for id in ["cron.service", "ssh.service", "systemd-journald.service", "rsyslog.service", "dbusmock.service"] {
            assert_eq!(why_not(&unit(id), None), None, "{id}");
        }
    }

    #[test]
    fn units_that_would_not_start_or_would_repeat_their_work_are_not_restarted() {
        let cron = || unit("cron.service");
        assert_eq!(why_not(&cron(), Some("cron.service")), Some("this upgrade runs in it"));
        for refused in [
            Unit { load: "masked".to_owned(), ..cron() },
            Unit { load: "not-found".to_owned(), ..cron() },
            Unit { refuses_stop: true, ..cron() },
            // A stopped service is not started because a process of it is left.
            Unit { active: "inactive".to_owned(), ..cron() },
            Unit { transient: true, ..cron() },
            Unit { kind: "oneshot".to_owned(), ..cron() },
        ] {
            assert!(why_not(&refused, Some("other.service")).is_some(), "{refused:?}");
        }
    }
}
