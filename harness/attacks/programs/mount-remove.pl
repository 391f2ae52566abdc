# Owns the top of a mount, and removes the rollback data there as far as it can.
use strict;
use warnings;
use Attack;

my $store = '/opt/phoned/.xivo-upgrade-rollback';
ready();
wait_for { upgraded() };
tried();
rename $store, '/opt/phoned/elsewhere';
