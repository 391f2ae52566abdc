
{
    find /etc/systemd/system -maxdepth 1 -lname /dev/null -printf '3 %f masked\n'
    find /etc/systemd/system -type l ! -lname /dev/null -printf '2 %l enabled\n' | sed 's| .*/| |'
    find /usr/lib/systemd/system /etc/systemd/system -maxdepth 1 -regex '.*\.\(service\|socket\|timer\|path\|target\)' -printf '1 %f disabled\n'
} | LC_ALL=C sort -r | awk '!seen[$2]++ { print "unit", $2, $3 }'
