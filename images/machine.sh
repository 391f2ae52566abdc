#!/bin/sh
# Turn a Debian base image into the image of a machine; runs inside of it. The tag of the image contains the hash of this file, so after a
# change `make images` builds the images again.
set -eu
export DEBIAN_FRONTEND=noninteractive

# Official images keep services from starting, disable the fsync of dpkg and delete downloaded packages. Remove that: a test on such a
# machine would prove nothing.
rm -f /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d/docker* /etc/apt/apt.conf.d/docker*

apt-get -qq update
apt-get -qq -y --no-install-recommends install systemd systemd-sysv dbus procps >/dev/null

# A locale that is not English: tests check that the upgrader does not depend on it. Only the compiled locale stays.
apt-get -qq -y --no-install-recommends install locales >/dev/null
localedef --no-archive -i fr_FR -f UTF-8 /usr/lib/locale/fr_FR.UTF-8
apt-get -qq -y purge locales >/dev/null

# Debian's timers would take the dpkg lock at random times. Tests that need this start them.
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    man-db.timer systemd-tmpfiles-clean.timer
# The machine has no console, and the engine configures the network.
systemctl mask --quiet console-getty.service getty.target systemd-networkd.service systemd-resolved.service 2>/dev/null

# The machine has no disks, keys or initrd. Generators for them would run at every boot and at every daemon-reload, which an upgrade does
# for each service. The generator for scripts in /etc/init.d stays, because packages have such scripts.
mkdir -p /etc/systemd/system-generators
for generator in /usr/lib/systemd/system-generators/*; do
    case $generator in
        */systemd-sysv-generator) ;;
        *) ln -s /dev/null "/etc/systemd/system-generators/${generator##*/}" ;;
    esac
done
systemctl mask --quiet dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount e2scrub_reap.service \
    systemd-ask-password-console.path systemd-ask-password-wall.path systemd-remount-fs.service

# The only package source of a machine is the repository of its test. Tests that need real packages restore Debian's own sources.
mkdir /etc/apt/debian-sources
for source in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    if [ -f "$source" ]; then mv "$source" /etc/apt/debian-sources/; fi
done
apt-get -qq clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
# Each machine gets its own ID when it boots (machine-id(5)).
: > /etc/machine-id

for leftover in /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d/docker-apt-speedup /etc/apt/apt.conf.d/docker-clean; do
    if [ -e "$leftover" ]; then echo "machine.sh: $leftover is still there" >&2; exit 1; fi
done
if grep -rqs force-unsafe-io /etc/dpkg; then echo "machine.sh: dpkg would not sync" >&2; exit 1; fi
