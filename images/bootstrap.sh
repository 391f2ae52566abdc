#!/bin/sh
# bootstrap.sh RELEASE: write a minimal Debian RELEASE from the Debian mirror to stdout, as a tar. It needs no registry.
#
# It installs mmdebstrap on the host if it is missing, and reports that. Run it as root or as a user with sudo.
set -eu
release=$1
# A root shell made by `su` lacks these directories.
PATH=$PATH:/usr/sbin:/sbin

if [ "$(id -u)" -eq 0 ]; then as_root() { "$@"; }; else as_root() { sudo -- "$@"; }; fi

# Two images are built at the same time. One process installs mmdebstrap, the other waits.
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
