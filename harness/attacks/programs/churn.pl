# Makes, renames and removes files and directories all the time.
use strict;
use warnings;
use Attack;

my $top = directory('/etc/phoned/churn');
ready();
tried();
my $number = 0;
until (over()) {
    my $one = "$top/" . $number++ % 50;
    if (-d $one) {
        unlink "$one/file";
        rename $one, "$one.old";
        rmdir "$one.old";
        eval { write_file($one, 'a file') };
    } else {
        rename $one, "$one.new" if -e $one;
        unlink "$one.new";
        mkdir $one and eval { write_file("$one/file", 'in a directory') };
    }
}
