# Removes directories once the packages have changed. While a rollback makes them one after the other, makes and removes the next one again and again.
use strict;
use warnings;
use Attack;

my @all = map { directory(sprintf '/etc/phoned/made/%05d', $_) } 1 .. 1500;
ready();
wait_for { upgraded() };
rmdir for reverse @all;
my $next = 0;
until (over()) {
    my $one = $all[$next];
    until (over()) {
        mkdir $one;
        rmdir $one;
        # It is made by now, or the one behind it.
        last if -e $all[$next + 1];
    }
    tried();
    $next += 2 while $next + 2 < $#all && -e $all[$next + 1];
    if ($next + 2 >= $#all) { pause(); $next = 0; }
}
