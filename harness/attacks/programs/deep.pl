# Makes directories so deep that no path is long enough for them.
use strict;
use warnings;
use Attack;

chdir '/etc/phoned' or die "/etc/phoned: $!\n";
for (1 .. 60) {
    my $name = 'd' x 200;
    mkdir $name or die "mkdir: $!\n";
    chdir $name or die "chdir: $!\n";
}
write_file('bottom', "deep\n");
ready();
tried();
