#!/bin/sh
# Install a container engine on a Debian host, if it has none, and start it.
#
# `harness setup` calls this script when no engine answers. It is safe to run at any time: each step does only what is missing, and
# reports what it changes on the host. Run it as root or as a user with sudo.
#
# It supports hosts with systemd, with a working service script, and with neither (plain dockerd). An engine that was killed leaves
# pid files that keep the next one from starting. The script removes those of dead processes.
set -eu
# A root shell made by `su` lacks these directories.
PATH=$PATH:/usr/sbin:/sbin

socket=/var/run/docker.sock
log=/var/log/dockerd.log

say() { printf 'engine: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

if [ "$(id -u)" -eq 0 ]; then
    as_root() { "$@"; }
else
    command -v sudo >/dev/null 2>&1 || die "not root and no sudo: run this as root, or install sudo"
    as_root() { sudo -- "$@"; }
fi

answers() { as_root env DOCKER_HOST="unix://$socket" timeout 5 docker version >/dev/null 2>&1; }

# wait_for_answer SECONDS: true as soon as the engine answers.
wait_for_answer() {
    deadline=$(( $(date +%s) + $1 ))
    until answers; do
        [ "$(date +%s)" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

install_packages() {
    if command -v dockerd >/dev/null && command -v docker >/dev/null; then return 0; fi
    command -v apt-get >/dev/null 2>&1 || die "this is not a Debian host: install Docker or Podman, then run again"
    as_root apt-get -qq update || die "apt-get update failed: the Debian mirror is needed to install an engine"
    wanted="docker.io"
    # Since trixie the client is a package of its own.
    if apt-cache show docker-cli >/dev/null 2>&1; then wanted="$wanted docker-cli"; fi
    say "installing $wanted from Debian"
    # shellcheck disable=SC2086 # a list of package names
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-remove --no-install-recommends install $wanted >&2 ||
        die "could not install $wanted"
}

# The process of a pid file may be gone or a zombie, or its pid may belong to another program now.
clear_stale_pid_files() {
    for file in /var/run/docker.pid /run/docker/containerd/containerd.pid; do
        as_root test -f "$file" || continue
        pid=$(as_root cat "$file")
        # "Name: dockerd" and "State: S (sleeping)", in this order.
        case "$(sed -n 's/^\(Name\|State\):[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null | tr '\n' ' ')" in
            "dockerd Z"* | "containerd Z"*) ;;
            "dockerd "* | "containerd "*) continue ;;
        esac
        say "removing $file, left by an engine that is gone"
        as_root rm -f "$file"
    done
}

start() {
    clear_stale_pid_files
    if [ -d /run/systemd/system ]; then
        say "starting docker with systemctl"
        as_root systemctl enable --quiet --now docker.service && wait_for_answer 30 && return 0
        say "systemd could not start docker; trying dockerd itself"
    elif [ -x /etc/init.d/docker ]; then
        say "starting docker with its service script"
        # This fails on hosts that cannot raise ulimits.
        as_root service docker start >&2 && wait_for_answer 10 && return 0
        say "the service script could not start docker; trying dockerd itself"
    fi
    # If the MTU of the bridge is above that of the uplink, downloads in containers stall.
    uplink=$(awk '$2 == "00000000" { print $1; exit }' /proc/net/route)
    mtu=$(cat "/sys/class/net/${uplink:-lo}/mtu")
    [ "$mtu" -le 1500 ] || mtu=1500
    say "starting dockerd in the background (log: $log)"
    as_root sh -c "setsid nohup dockerd --mtu $mtu >>$log 2>&1 </dev/null &"
    wait_for_answer 60 || {
        as_root tail -n 15 "$log" >&2
        die "dockerd did not start; the end of its log is above"
    }
}

give_access() {
    [ "$(id -u)" -ne 0 ] || return 0
    [ -w "$socket" ] && return 0
    say "giving $(id -un) access to $socket until the engine restarts (for good: sudo adduser $(id -un) docker)"
    as_root chown "$(id -un)" "$socket"
}

install_packages
answers || start
give_access
say "$(DOCKER_HOST=unix://$socket docker version --format 'Docker {{.Server.Version}} answers') on $socket"
