
dpkg-query --show --showformat='${Conffiles}\n' | sed -n 's/^ \(.*\) \([0-9a-f]\{32\}\)$/\2  \1/p' |
    md5sum --check --quiet 2>/dev/null | sed -n 's/: FAILED$//p' | xargs --no-run-if-empty sha256sum | sed 's/^\([^ ]*\)  /conffile \1 /'
find /var/lib /var/spool /srv /home /opt -xdev -type f -printf 'data %p\n' |
    grep -Ev '^data /var/lib/(apt|dpkg|systemd|ucf|pam|private|misc|[^/]*-upgrade)/'
