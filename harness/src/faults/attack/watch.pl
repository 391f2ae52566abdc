# Prints the largest peak of resident memory of the upgrader's processes, in kB, once the file $ARGV[0] exists. Kills a process above
# $ARGV[1] kB, so that the host is safe.
my ($end, $most) = @ARGV;
my $peak = 0;
until (-e $end) {
    for my $process (glob '/proc/[0-9]*') {
        next unless (readlink("$process/exe") // '') =~ m{/(real-)?xivo-upgrade( \(deleted\))?$};
        open my $status, '<', "$process/status" or next;
        for (<$status>) {
            $peak = $1 if /^VmHWM:\s+(\d+)/ && $1 > $peak;
        }
        kill KILL => $process =~ /(\d+)/ if $peak > $most;
    }
    select undef, undef, undef, 0.02;
}
unlink $end;
print $peak;
