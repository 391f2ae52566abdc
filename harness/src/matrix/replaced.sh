
{
    find /proc/[0-9]*/exe -maxdepth 0 -lname '* (deleted)' -printf '%h/:%l\n'
    grep -s ' /usr.* (deleted)$' /proc/[0-9]*/maps
} 2>/dev/null | sed 's|^/proc/\([0-9]*\)/[^:]*:[^/]*|\1 |' | sort -u | while read -r process path; do
    echo "$(sed -n '/^0::/ { s|.*/||; s|[.]service$||; p }' /proc/$process/cgroup 2>/dev/null): $path"
done || :
