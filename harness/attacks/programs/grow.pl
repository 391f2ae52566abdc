# Makes its file larger without content as soon as somebody reads it: grow.pl WHEN SIZE, which is `before` or `after` the packages change.
use strict;
use warnings;
use Attack;
use Kernel;

my ($when, $size) = @ARGV;
my $path = '/etc/phoned/growing';
write_file($path, join '', map { "line $_\n" } 1 .. 3_000_000);
my $watch = watch($path, ACCESS);
ready();
wait_for { upgraded() } if $when eq 'after';
events($watch);
until (events($watch)) {
    exit 0 if over() || ($when eq 'before' && upgraded());
}
truncate $path, $size or die "$path: $!\n";
tried();
