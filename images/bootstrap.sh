#!/bin/sh
# bootstrap.sh RELEASE: a minimal Debian RELEASE from the Debian mirror, as a tar on stdout. No registry is involved.
#
# Installs mmdebstrap on the host if it is missing, and says so. As root, or as a user who may use sudo.
set -eu
release=$1
# Where a root shell made by `su` does not look.
PATH=$PATH:/usr/sbin:/sbin

if [ "$(id -u)" -eq 0 ]; then as_root() { "$@"; }; else as_root() { sudo -- "$@"; }; fi

# Two machines are made at the same time; one installs, the other waits.
exec 9<"$0"
flock 9
if ! command -v mmdebstrap >/dev/null 2>&1; then
    echo "bootstrap: installing mmdebstrap from Debian" >&2
    as_root apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install \
        mmdebstrap debian-archive-keyring >&2
fi
flock -u 9
echo "bootstrap: Debian $release from the mirror (about half a minute)" >&2
as_root mmdebstrap --quiet --variant=minbase --format=tar "$release" -
