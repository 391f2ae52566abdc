
everything() { find / \( @VOLATILE@ \) -prune -o "$@"; }
everything -printf 'path %p %y %m %U:%G %l\n'
everything -type f ! -path @KEY@ -print0 | xargs -0 sha256sum | sed 's/^\([^ ]*\)  \(.*\)/content \2 \1/'
everything -print0 | xargs -0 getfattr --no-dereference --dump --match=- --encoding=hex --absolute-names |
    awk '/^# file: / { path = substr($0, 9); next } NF { print "attribute", path, $0 }'
