# Plants a file in the state directory of the upgrader as soon as it can: an account that can do so can plant a journal, which a boot executes.
use strict;
use warnings;
use Attack;

ready();
tried();
until (over()) {
    for my $directory ('/var/lib/xivo-upgrade', glob '/var/lib/xivo-upgrade/*') {
        eval { write_file("$directory/planted", '') } if -d $directory && -w _;
    }
    pause();
}
