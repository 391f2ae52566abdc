# Has an edited conffile and a version of the package with this many lines, of which none is the same.
use strict;
use warnings;
use Attack;

my ($lines) = @ARGV;
my $conffile = '/etc/phoned/fixed.conf';
write_file($conffile, "a\n" x $lines);
write_file('/etc/phoned/other', "b\n" x $lines);
ready();
wait_for { upgraded() };
rename '/etc/phoned/other', "$conffile.dpkg-dist" or die "$conffile.dpkg-dist: $!\n";
tried();
