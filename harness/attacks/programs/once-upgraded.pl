# Runs a shell command once the packages have changed: once-upgraded.pl COMMAND.
use strict;
use warnings;
use Attack;

my ($command) = @ARGV;
ready();
wait_for { upgraded() };
system('/bin/sh', '-euc', $command) == 0 or die "$command failed\n";
tried();
