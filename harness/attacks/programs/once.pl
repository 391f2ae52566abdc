# Runs a shell command once the packages have changed, or when the admin goes on to the next command: once.pl upgraded|next COMMAND.
use strict;
use warnings;
use Attack;

my ($when, $command) = @ARGV;
ready();
wait_for { $when eq 'next' ? next_command() : upgraded() };
system('/bin/sh', '-euc', $command) == 0 or die "$command failed\n";
tried();
