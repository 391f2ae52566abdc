#!/bin/sh
# A second container engine on this host, whose containers are in a user namespace: root of a container is an ordinary user of the host.
#
#   isolated-engine.sh start          start it unless it answers, and print the value for DOCKER_HOST
#   isolated-engine.sh cgroup PID     give the cgroup of a container with this process 1 to root of the container
#   isolated-engine.sh stop           stop it, and remove its network
#
# The gate calls this script. It needs dockerd on this host, because the setting is one of the whole daemon and machines on disks cannot run
# with it. Run it as root or as a user with sudo. It reports what it changes on the host.
set -eu
# A root shell made by `su` lacks these directories.
PATH=$PATH:/usr/sbin:/sbin

name=xivo-isolated
socket=/run/$name.sock
state=/var/lib/$name
run=/run/$name
pid_file=/run/$name.pid
log=/var/log/$name.log
subnet=${ISOLATED_SUBNET:-192.168.213}

say() { printf 'isolated-engine: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

if [ "$(id -u)" -eq 0 ]; then
    as_root() { "$@"; }
else
    command -v sudo >/dev/null 2>&1 || die "not root and no sudo: run this as root, or install sudo"
    as_root() { sudo -- "$@"; }
fi

answers() { as_root env DOCKER_HOST="unix://$socket" timeout 5 docker version >/dev/null 2>&1; }

# rule TABLE CHAIN RULE: add a firewall rule at the beginning, unless it is there.
rule() {
    table=$1
    chain=$2
    shift 2
    as_root iptables -t "$table" -C "$chain" "$@" 2>/dev/null || as_root iptables -t "$table" -I "$chain" "$@"
}

# A bridge of its own. dockerd would otherwise take over docker0 of the usual engine, and replace the chains of its firewall.
network() {
    if [ ! -e /sys/class/net/$name ]; then
        # With an address of its own: else it takes the lowest of the machines' addresses, and as they come and go, others lose it.
        as_root ip link add $name address 02:58:49:56:4f:01 type bridge
        as_root ip addr add "$subnet.1/24" dev $name
        as_root ip link set $name up
    fi
    # Without iptables, machines reach this host only.
    command -v iptables >/dev/null || return 0
    rule nat POSTROUTING -s "$subnet.0/24" ! -o $name -j MASQUERADE
    rule filter FORWARD -i $name ! -o $name -j ACCEPT
    rule filter FORWARD -o $name -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
}

start() {
    command -v dockerd >/dev/null || die "there is no dockerd on this host"
    for file in "$pid_file" "$run/containerd/containerd.pid"; do
        # It does not answer, so what a pid file of it names is another process by now.
        as_root rm -f "$file"
    done
    say "starting an engine with user namespaces on $socket (bridge $name, user dockremap, log: $log, images: $state)"
    network
    # As in install-engine.sh.
    uplink=$(awk '$2 == "00000000" { print $1; exit }' /proc/net/route)
    mtu=$(cat "/sys/class/net/${uplink:-lo}/mtu")
    [ "$mtu" -le 1500 ] || mtu=1500
    as_root sh -c "setsid nohup dockerd --userns-remap default --host unix://$socket --data-root $state --exec-root $run \
        --pidfile $pid_file --bridge $name --iptables=false --mtu $mtu >>$log 2>&1 </dev/null 9>&- &"
    deadline=$(($(date +%s) + 60))
    until answers; do
        if [ "$(date +%s)" -ge "$deadline" ]; then
            as_root tail -n 15 "$log" >&2
            die "dockerd did not start; the end of its log is above"
        fi
        sleep 0.2
    done
}

# cgroup PID: runc gives a cgroup only to containers that have it mounted writable. systemd makes cgroups below its own.
cgroup() {
    mapped=$(awk '$1 == 0 { print $2 }' "/proc/$1/uid_map")
    [ "$mapped" -ge 65536 ] || die "process $1 is not in a user namespace"
    # In the hybrid layout of systemd, cgroup 2 is a directory deeper (systemd.resource-control(5)).
    tree=/sys/fs/cgroup
    [ ! -e $tree/unified/cgroup.procs ] || tree=$tree/unified
    own=$tree$(sed -n 's/^0:://p' "/proc/$1/cgroup")
    case $own in
        */..* | "$tree/") die "process $1 is not in a cgroup of its own: $own" ;;
    esac
    for file in . cgroup.procs cgroup.threads cgroup.subtree_control; do
        as_root chown "$mapped:$mapped" "$own/$file"
    done
}

case ${1:-} in
    start)
        # One process starts it, others wait.
        exec 9<"$0"
        flock 9
        answers || start
        [ -w $socket ] || as_root chown "$(id -un)" $socket
        echo "unix://$socket"
        ;;
    cgroup) cgroup "$2" ;;
    stop)
        if answers; then
            pid=$(as_root cat $pid_file)
            as_root kill "$pid"
            # It removes its pid file at its end, which must not be that of a next one.
            while [ -e "/proc/$pid" ]; do sleep 0.2; done
        fi
        if command -v iptables >/dev/null; then
            as_root iptables -t nat -D POSTROUTING -s "$subnet.0/24" ! -o $name -j MASQUERADE || true
            as_root iptables -D FORWARD -i $name ! -o $name -j ACCEPT || true
            as_root iptables -D FORWARD -o $name -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT || true
        fi
        as_root ip link del $name || true
        ;;
    *) die "usage: $0 start | cgroup PID | stop" ;;
esac
