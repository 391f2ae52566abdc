
everything() { find / \( @VOLATILE@ \) -prune -o "$@"; }
everything -printf 'path %p %y %m %U:%G %l\n'
everything -type f ! -path @KEY@ -print0 | xargs -0 sha256sum | sed 's/^\([^ ]*\)  \(.*\)/content \2 \1/'
everything -print0 | xargs -0 getfattr --no-dereference --dump --match=- --encoding=hex --absolute-names |
    awk '/^# file: / { path = substr($0, 9); next } NF { print "attribute", path, $0 }'
for running in /run/*.running; do
    [ -e "$running" ] || continue
    name=$(basename $running .running)
    read -r process version <$running
    if [ "$process" = "$(systemctl show -P MainPID $name)" ]; then echo running $name $(systemctl show -P ActiveState $name) $version; fi
done
if [ -d /var/lib/postgresql ]; then
    until pg_isready --quiet; do sleep 0.05; done
    runuser -u postgres -- pg_dump --exclude-table=injection --exclude-table-data=xivo_upgrade.* asterisk | grep -v restrict | sort | sha256sum |
        sed 's/ .*//; s/^/database asterisk /'
fi
systemctl list-units --failed --plain --no-legend | sed '/^xivo-upgrade-resume.service/d; s/^/failed /'
dpkg --audit | sed -n 's/^ \([^ ]*\).*/half-done \1/p'
flock --nonblock /run/xivo-upgrade.lock true || echo 'lock held'
