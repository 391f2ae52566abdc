# Replaces a path of the account: replace.sh PATH COMMAND, which makes another thing at $path.
path=$1
rm -rf "$path"
eval "$2"
touch /var/lib/phoned/tried /var/lib/phoned/ready
