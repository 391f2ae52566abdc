#!/bin/sh
# Install the programs that make XFS and btrfs, if they are missing, for tests of machines with a disk of their own.
#
# Called by `harness setup`. As root, or as a user who may use sudo.
set -eu
PATH=$PATH:/usr/sbin:/sbin

missing=
command -v mkfs.xfs >/dev/null || missing="$missing xfsprogs"
command -v mkfs.btrfs >/dev/null || missing="$missing btrfs-progs"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then as_root() { "$@"; }; else as_root() { sudo -- "$@"; }; fi
echo "filesystems: installing$missing from Debian" >&2
as_root apt-get -qq update
# shellcheck disable=SC2086 # a list of package names
as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-remove --no-install-recommends install $missing >/dev/null
