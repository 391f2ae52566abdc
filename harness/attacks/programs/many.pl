# Makes a lot of small files.
use strict;
use warnings;
use Attack;

my ($count) = @ARGV;
for my $number (0 .. $count - 1) {
    my $directory = '/etc/phoned/many/' . int($number / 1000);
    directory($directory) if $number % 1000 == 0;
    write_file("$directory/$number", "$number\n");
}
ready();
tried();
