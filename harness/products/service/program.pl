#!/usr/bin/perl
# A service of the synthetic releases.
my ($unix, $stream, $datagram) = (1, 1, 2);
my ($name, $version) = ('@NAME@', '@VERSION@');
my $path = "/run/$name.sock";
unlink $path;
socket my $server, $unix, $stream, 0 or die "socket: $!\n";
bind $server, pack('Sa*', $unix, "$path\0") or die "$path: $!\n";
listen $server, 5 or die "$path: $!\n";
open my $running, '>', "/run/$name.running" or die "/run/$name.running: $!\n";
print $running "$$ $version\n";
close $running;
if (my $supervisor = $ENV{NOTIFY_SOCKET}) {
    $supervisor =~ s/^\@/\0/;
    socket my $notify, $unix, $datagram, 0 or die "socket: $!\n";
    send $notify, "READY=1", 0, pack('Sa*', $unix, $supervisor) or die "$supervisor: $!\n";
}
while (accept my $client, $server) {
    print $client "$name $version\n";
    close $client;
}
