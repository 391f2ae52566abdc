# Prints what no attack may change, a line each.
# Files may be gone before they are read.
set +e
exec 2>/dev/null
export LC_ALL=C
everything() { find / /run /opt/phoned -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/tmp "$@"; }
others() { everything -o -path /etc/phoned -o -path /var/lib/phoned -o -path /opt/phoned \) -prune -o "$@"; }

# What has run as root.
for canary in /root/owned /run/owned; do
    if [ -e $canary ]; then echo "$canary: a program of the account has run as root"; fi
done
# What the account has outside of its own directories.
others \( -user phoned -o -group phoned \) -printf 'belongs to the account: %p (%M)\n'
others ! -type l ! -type s ! -perm -1000 -perm -o=w -printf 'writable for all: %p (%M)\n'
everything \) -prune -o -type f -perm /6000 ! -user phoned -print0 | xargs -0 -r sh -c 'for file; do
    echo "setuid: $(stat -c "%A %U %n" "$file") $(sha256sum <"$file")"
done' sh
# What only root and packages change.
for file in /etc/passwd /etc/shadow /etc/group /etc/gshadow /root/secret /root/important/*; do
    if [ -e "$file" ]; then echo "system: $(stat -c '%A %U:%G %n' "$file") $(sha256sum <"$file")"; fi
done
find /root /etc/cron* /etc/sudoers* /etc/pam.d /etc/systemd/system /run/systemd/system /etc/ld.so* /etc/profile* -printf 'system: %p %y %u:%g %#m\n' |
    grep -v '/nginx.service.d'
find / /boot /usr /usr/bin /usr/sbin /etc /etc/xivo-upgrade /usr/share/xivo-upgrade /var /var/lib -maxdepth 0 -printf 'system: %p %y %u:%g %#m\n'
# Not `dpkg --verify`: it reads FIFOs and devices in the places of conffiles.
cd /
for package in xivo-phoned xivo-upgrade nginx passwd; do
    grep -v ' etc/' /var/lib/dpkg/info/$package.md5sums | md5sum --check --quiet 2>&1 | sed 's/^/not as its package has it: /'
done
# What the account can read.
runuser -u phoned -- find /etc /var /run /tmp /opt /root /home -xdev -type f -size -1025k -readable -exec grep -lsF CANARY-OF-ROOT {} + |
    sed 's/^/readable, with a secret of root: /'
# What the account makes the log, the journal and the screen of a login say.
grep -D skip -acP '\x1b\[7m|^\S+ FORGED' /var/log/xivo-upgrade.log /run/motd.d/* | grep -v ':0$' | sed 's/^/forged lines or escape sequences: /'
journalctl --no-pager --output=cat | grep -acP '\x1b\[7m|^FORGED' | grep -vx 0 | sed 's/^/forged lines or escape sequences: the journal: /'
:
