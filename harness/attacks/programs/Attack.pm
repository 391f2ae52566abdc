# What the attackers have in common. They run as the account phoned.
package Attack;
use strict;
use warnings;
use Exporter 'import';
use POSIX ();
our @EXPORT = qw(ready tried over pause wait_for next_command unpacked upgraded exchange write_file read_file directory);

my $home = '/var/lib/phoned';

# Says that everything is prepared: the admin begins.
sub ready { write_file("$home/ready", '') }

# Says that the attack took place.
sub tried { write_file("$home/tried", '') }

# True once the attack is over.
sub over { -e '/run/attack-over' }

sub pause { select undef, undef, undef, 0.0005 }

# Waits until a condition holds; ends with the attack.
sub wait_for(&) {
    my $condition = shift;
    until ($condition->()) {
        exit 0 if over();
        pause();
    }
}

# True once the admin goes on to the next command.
sub next_command { -e '/run/attack-next' }

# True once the new version of the package is unpacked, a little before it is configured.
sub unpacked { read_file('/usr/share/phoned/version') eq "1.2.2\n" }

# True once the new version of the package is configured.
sub upgraded { read_file('/var/cache/phoned.version') eq "1.2.2\n" }

# Exchanges two paths at once: renameat2(2) with RENAME_EXCHANGE, relative to AT_FDCWD.
sub exchange {
    my ($one, $other) = @_;
    my $number = (POSIX::uname())[4] eq 'aarch64' ? 276 : 316;
    return syscall($number, -100, $one, -100, $other, 2) == 0;
}

sub write_file {
    my ($path, $content) = @_;
    open my $file, '>', $path or die "$path: $!\n";
    print $file $content;
    close $file or die "$path: $!\n";
}

sub read_file {
    my ($path) = @_;
    open my $file, '<', $path or return '';
    local $/;
    return <$file> // '';
}

# Makes a directory and those above it.
sub directory {
    my ($path) = @_;
    my $made = '';
    for my $name (grep { length } split m{/}, $path) {
        $made .= "/$name";
        -d $made or mkdir $made or die "$made: $!\n";
    }
    return $path;
}

1;
