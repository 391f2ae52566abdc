# Has many links, and removes them once the packages have changed. Moves what the rollback makes in their place away before it belongs to the
# account again: a link of root, which the kernel lets every program follow in /tmp (fs.protected_symlinks).
use strict;
use warnings;
use Attack;

my ($target, $count) = @ARGV;
my $top = directory('/etc/phoned/links');
symlink $target, sprintf '%s/%05d', $top, $_ or die "$top: $!\n" for 1 .. $count;
ready();
wait_for { upgraded() };
unlink glob "$top/*";
my $kept = directory('/var/tmp/phoned');
# The temporary names are numbers, one after the other.
my $next;
until (over() || -l "$kept/link") {
    if (!defined $next) {
        opendir my $entries, $top or die "$top: $!\n";
        my ($now) = sort { $b <=> $a } map { /^\.(\d+)\.xivo-upgrade-tmp$/ ? $1 : () } readdir $entries;
        # Some are between them by now.
        $next = $now + 20 if defined $now;
        tried() if defined $now;
        next;
    }
    my $from = "$top/.$next.xivo-upgrade-tmp";
    my $tries = 0;
    until (rename $from, "$kept/now") {
        # It is behind this one already.
        if (++$tries > 2000) { undef $next; last; }
    }
    next if !defined $next;
    my ($owner) = (lstat "$kept/now")[4];
    if (defined $owner && $owner == 0) {
        # It may be about to get its owner.
        select undef, undef, undef, 0.05;
        rename "$kept/now", "$kept/link" if (lstat "$kept/now")[4] == 0;
    }
    $next += 1;
}
