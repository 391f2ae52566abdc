# Has a socket in the place of a conffile.
use strict;
use warnings;
use Attack;
use Socket;

my ($path) = @ARGV;
unlink $path;
socket my $server, AF_UNIX, SOCK_STREAM, 0 or die "socket: $!\n";
bind $server, pack_sockaddr_un($path) or die "$path: $!\n";
ready();
tried();
wait_for { 0 };
