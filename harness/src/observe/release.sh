
dpkg-query --show --showformat='package ${Package} ${Version} ${db:Status-Abbrev}\n' | grep -v ' rc *$'
apt-mark showmanual | sed 's/^/manual /'
apt-mark showhold | sed 's/^/hold /'
dpkg-query --show --showformat='${db:Status-Abbrev}\t${Package}\n' | sed -n 's/^rc *\t//p' | while read -r package; do
    dpkg-query --show --showformat='${Conffiles}\n' "$package" | sed -n 's/^ \([^ ]*\) .*/remains \1/p'
    ls /var/lib/dpkg/info/"$package".* 2>/dev/null | sed 's/^/remains /'
done
ours='-path /etc/machine-id -o -path /etc/hostname -o -path /etc/hosts -o -path /etc/resolv.conf -o -path /etc/.pwd.lock
    -o -path /etc/apt/sources.list.d/xivo.sources -o -path /usr/share/keyrings/xivo.pgp'
find /etc \( $ours \) -o -type f -exec sha256sum {} + | sed 's/^\([^ ]*\)  \(.*\)/content \2 \1/'
find /etc /usr \( $ours \) -o -type d -printf '%U %G directory %p %m \001\n' -o -printf '%U %G file %p %y %m \001 %l\n' -path '/usr/*' -type f -printf '0 0 size %p %s\n' |
    awk 'FILENAME != "-" { split($0, entry, ":"); if (!((FILENAME, entry[3]) in name)) name[FILENAME, entry[3]] = entry[1]; next }
        function named(file, id) { return (file, id) in name ? name[file, id] : id }
        { owner = named("/etc/passwd", $1) ":" named("/etc/group", $2); sub(/^[^ ]* [^ ]* /, ""); sub(/\001/, owner); print }' /etc/passwd /etc/group -
find /var/lib/systemd/deb-systemd* -type f -printf 'switched %p\n' 2>/dev/null
dpkg-divert --list | sed 's/^/divert /'
dpkg-statoverride --list | sed 's/^\([^ ]* [^ ]* [^ ]*\) \(.*\)/override \2 \1/'
systemctl list-units --no-legend --plain --all --type=service | sed -n 's/^\([^ ]*\)  *[^ ]*  *\([^ ]*\)  *\([^ ]*\).*/service \1 \2 \3/p'
systemctl list-units --no-legend --plain --all --type=socket,timer,path | sed -n 's/^\([^ ]*\)  *[^ ]*  *\([^ ]*\).*/trigger \1 \2/p'
