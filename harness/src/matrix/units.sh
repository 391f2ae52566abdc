
units=$(systemctl show --timestamp=unix --property=Id,MainPID,FragmentPath,ExecMainStartTimestamp,NeedDaemonReload,ControlGroup,\
InactiveEnterTimestampMonotonic '*')
printf '%s\n==\n' "$units"
printf '%s\n' "$units" | sed -n 's|^FragmentPath=\(/usr\)*/lib/|/lib/|p' | sed 'p; s|^|/usr|' | sort -u |
    xargs dpkg-query --search 2>/dev/null || :
echo ==
stat --format='%Y %n' /var/lib/dpkg/info/*.list
