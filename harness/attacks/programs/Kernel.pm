# System calls that Perl has no functions for: extended attributes, and inotify(7).
package Kernel;
use strict;
use warnings;
use Exporter 'import';
use POSIX ();
our @EXPORT = qw(set_attribute remove_attribute watch events ACCESS CLOSE_NOWRITE);

use constant { ACCESS => 0x1, CLOSE_NOWRITE => 0x10 };

my $is_arm = (POSIX::uname())[4] eq 'aarch64';

# Sets an extended attribute of a path.
sub set_attribute {
    my ($path, $name, $value) = @_;
    return syscall($is_arm ? 5 : 188, $path, $name, $value, length $value, 0) == 0;
}

# Removes one.
sub remove_attribute {
    my ($path, $name) = @_;
    return syscall($is_arm ? 14 : 197, $path, $name) == 0;
}

# Watches a path for these events. Returns a handle; reading does not wait.
sub watch {
    my ($path, $mask) = @_;
    my $descriptor = syscall($is_arm ? 26 : 294, POSIX::O_NONBLOCK());
    die "inotify: $!\n" if $descriptor < 0;
    syscall($is_arm ? 27 : 254, $descriptor, $path, $mask) >= 0 or die "$path: $!\n";
    open my $handle, '<&=', $descriptor or die "inotify: $!\n";
    return $handle;
}

# How many bytes of events there are; they are taken away.
sub events {
    my ($handle) = @_;
    return sysread($handle, my $bytes, 65536) // 0;
}

1;
