# Makes files with names that forge lines and move the cursor: names.pl WHEN, which is `before` or `after` the upgrade.
use strict;
use warnings;
use Attack;

my ($when) = @ARGV;
ready();
wait_for { next_command() } if $when eq 'after';
directory('/etc/phoned/names');
for my $name ("a\nFORGED XiVO is upgraded", "b\e[7mc\e[2K", "d\rFORGED e", "f\x9b7m", "g\xff\xfe") {
    write_file("/etc/phoned/names/$name", "$name\n");
    directory("/etc/phoned/names/$name.d");
}
tried();
ready();
