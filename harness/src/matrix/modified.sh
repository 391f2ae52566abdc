
{
    find /usr -xdev ! -type d -newerct @@SINCE@ | sed 'p; s|^/usr/|/|' | xargs -d '\n' --no-run-if-empty dpkg-query --search 2>/dev/null |
        sed -n '/^diversion /d; s/: .*//p' | tr -d ' ' | tr , '\n'
    find /var/lib/dpkg/info -name '*.list' -newerct @@SINCE@ -printf '%f\n' | sed 's/[.]list$//'
} | sort -u | xargs --no-run-if-empty dpkg --verify || :
