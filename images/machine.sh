#!/bin/sh
# Runs inside a Debian base image and makes it a machine. Its content is part of the image's tag: change it, and the next
# `make images` builds the machines anew.
set -eu
export DEBIAN_FRONTEND=noninteractive

# What official images carry so that containers stay small and start nothing. With any of these a test proves nothing:
# no service would start, dpkg would not sync, downloaded packages would vanish.
rm -f /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d/docker* /etc/apt/apt.conf.d/docker*

apt-get -qq update
apt-get -qq -y --no-install-recommends install systemd systemd-sysv dbus procps >/dev/null

# A locale that is not English, for those who read what programs print. Only the compiled one stays.
apt-get -qq -y --no-install-recommends install locales >/dev/null
localedef --no-archive -i fr_FR -f UTF-8 /usr/lib/locale/fr_FR.UTF-8
apt-get -qq -y purge locales >/dev/null

# Timers of the distribution would take the dpkg lock whenever they please. Tests that want that do it themselves.
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    man-db.timer systemd-tmpfiles-clean.timer
# No console is attached, and the network is the engine's business.
systemctl mask --quiet console-getty.service getty.target systemd-networkd.service systemd-resolved.service 2>/dev/null

# Nor has it disks, keys or an initrd: what looks for them runs at every boot and at every daemon-reload, of which an upgrade has one for
# each service. What makes units of scripts in /etc/init.d stays: packages have such.
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

# A machine knows no source but the repository of its test. Debian's own lie ready for tests that want real packages.
mkdir /etc/apt/debian-sources
for source in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    if [ -f "$source" ]; then mv "$source" /etc/apt/debian-sources/; fi
done
apt-get -qq clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
# Each machine gets an identity of its own when it boots.
: > /etc/machine-id

for leftover in /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d/docker-apt-speedup /etc/apt/apt.conf.d/docker-clean; do
    if [ -e "$leftover" ]; then echo "machine.sh: $leftover is still there" >&2; exit 1; fi
done
if grep -rqs force-unsafe-io /etc/dpkg; then echo "machine.sh: dpkg would not sync" >&2; exit 1; fi
