#!/usr/bin/perl
# A service with data of its own, which it has in memory: it loads a file at start, and saves the file at stop. It does not start with a file
# that is not complete.
use IO::Handle;
my ($unix, $stream, $datagram) = (1, 1, 2);
my ($name, $version) = ('@NAME@', '@VERSION@');
my ($file, $path) = ("/var/lib/$name/data", "/run/$name.sock");
unlink "$file.new";
open my $data, '<', $file or die "$file: $!\n";
my @lines = <$data>;
close $data;
@lines > 1 && $lines[-1] eq 'end ' . (@lines - 1) . "\n" or die "$file: it is not complete\n";
/^(agent \d+ is at desk \d+|end \d+)\n\z/ or die "$file: malformed: $_\n" for @lines;
$SIG{TERM} = sub {
    open my $new, '>', "$file.new" or die "$file.new: $!\n";
    print $new @lines;
    $new->flush && $new->sync or die "$file.new: $!\n";
    close $new;
    rename "$file.new", $file or die "$file: $!\n";
    exit 0;
};
unlink $path;
socket my $server, $unix, $stream, 0 or die "socket: $!\n";
bind $server, pack('Sa*', $unix, "$path\0") or die "$path: $!\n";
listen $server, 5 or die "$path: $!\n";
open my $running, '>', "/run/$name.running" or die "/run/$name.running: $!\n";
print $running "$$ $version\n";
close $running;
socket my $notify, $unix, $datagram, 0 or die "socket: $!\n";
my $supervisor = $ENV{NOTIFY_SOCKET} =~ s/^\@/\0/r;
send $notify, "READY=1", 0, pack('Sa*', $unix, $supervisor) or die "$supervisor: $!\n";
1 while accept my $client, $server;
sleep while 1;
