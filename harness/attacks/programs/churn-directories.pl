# Removes directories once the packages have changed, and makes and removes them again and again while the rollback makes them.
use strict;
use warnings;
use Attack;

my @all = map { directory("/etc/phoned/made/$_") } 1 .. 1500;
ready();
wait_for { upgraded() };
rmdir for @all;
tried();
fork();
until (over()) {
    for my $one (@all) {
        rmdir $one unless mkdir $one and rand() < 0.3;
        rename $one, "$one.old" and rmdir "$one.old" if rand() < 0.3;
    }
}
