# Holds a lock on a file that it may read: lock.pl PATH.
use strict;
use warnings;
use Attack;
use Fcntl ':flock';

my ($path) = @ARGV;
if (open my $file, '<', $path) {
    flock $file, LOCK_EX or die "$path: $!\n";
    ready();
    tried();
    wait_for { 0 };
}
ready();
tried();
