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
