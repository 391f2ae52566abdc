# Has files with extended attributes: attributes.pl full COUNT, as large as the filesystem takes them; or exchange, of which one becomes large as the
# other becomes small, so that there is no room for both; or churn, of which the list changes all the time.
use strict;
use warnings;
use Attack;
use Kernel;

my ($how, $count) = @ARGV;
my $top = directory('/etc/phoned/attributes');
my $large = 'x' x 3900;
my @files = map { "$top/$_" } 1 .. $count // 1;
for my $file (@files) {
    write_file($file, "phoned's own\n");
    set_attribute($file, 'user.a', $large) or die "$file: $!\n";
    set_attribute($file, 'user.b', 'x') if $how eq 'exchange';
}
if ($how eq 'full') {
    tried();
    ready();
    exit 0;
}
ready();
wait_for { upgraded() };
if ($how eq 'exchange') {
    set_attribute($files[0], 'user.a', 'x') && set_attribute($files[0], 'user.b', $large) or die "$files[0]: $!\n";
    tried();
    exit 0;
}
# Many names take time to read.
for my $file (@files) {
    remove_attribute($file, 'user.a');
    set_attribute($file, "user.n$_", 'x') or die "$file: $!\n" for 10 .. 69;
}
tried();
until (over()) {
    for my $file (@files) {
        remove_attribute($file, 'user.n69');
        set_attribute($file, 'user.n69', 'x');
    }
}
