use crate::package::Package;

/// A service's program: says READY to systemd, writes down what runs, then tells its version to whoever connects.
const PROGRAM: &str = r#"#!/usr/bin/perl
# A service of the synthetic releases.
use strict;
use warnings;
use IO::Socket::UNIX;
use Socket qw(AF_UNIX SOCK_DGRAM pack_sockaddr_un);

my ($name, $version) = ('@NAME@', '@VERSION@');
my $path = "/run/$name.sock";
unlink $path;
my $server = IO::Socket::UNIX->new(Local => $path, Listen => 5) or die "$path: $!\n";
open my $running, '>', "/run/$name.running" or die "/run/$name.running: $!\n";
print $running "$$ $version\n";
close $running;
if (my $supervisor = $ENV{NOTIFY_SOCKET}) {
    $supervisor =~ s/^\@/\0/;
    socket my $notify, AF_UNIX, SOCK_DGRAM, 0 or die "socket: $!\n";
    send $notify, "READY=1", 0, pack_sockaddr_un($supervisor) or die "$supervisor: $!\n";
}
while (my $client = $server->accept) {
    print $client "$name $version\n";
    close $client;
}
"#;

const UNIT: &str = "\
[Unit]
Description=@NAME@ of the synthetic XiVO

[Service]
Type=notify
ExecStart=/usr/libexec/@NAME@

[Install]
WantedBy=multi-user.target
";

/// What `dh_installsystemd` adds to a postinst (debhelper's autoscripts postinst-systemd-enable and -restart).
const POSTINST: &str = r#"
if [ "$1" = "configure" ] || [ "$1" = "abort-upgrade" ] || [ "$1" = "abort-deconfigure" ] || [ "$1" = "abort-remove" ]; then
	deb-systemd-helper unmask '@NAME@.service' >/dev/null || true
	if deb-systemd-helper --quiet was-enabled '@NAME@.service'; then
		deb-systemd-helper enable '@NAME@.service' >/dev/null || true
	else
		deb-systemd-helper update-state '@NAME@.service' >/dev/null || true
	fi
	if [ -d /run/systemd/system ]; then
		systemctl --system daemon-reload >/dev/null || true
		if [ -n "$2" ]; then
			_dh_action=restart
		else
			_dh_action=start
		fi
		deb-systemd-invoke $_dh_action '@NAME@.service' >/dev/null || true
	fi
fi
"#;

/// What it adds to a prerm (prerm-systemd-restart).
const PRERM: &str = r#"
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	deb-systemd-invoke stop '@NAME@.service' >/dev/null || true
fi
"#;

/// What it adds to a postrm (postrm-systemd and -reload-only).
const POSTRM: &str = r#"
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl --system daemon-reload >/dev/null || true
fi
if [ "$1" = "purge" ]; then
	if [ -x "/usr/bin/deb-systemd-helper" ]; then
		deb-systemd-helper purge '@NAME@.service' >/dev/null || true
	fi
fi
"#;

/// Gives a package a service of its name: program, unit, and the maintainer scripts that debhelper would write.
/// Scripts that the package has of its own run first.
pub fn add_service(package: &mut Package) {
    let filled = |text: &str| text.replace("@NAME@", &package.name).replace("@VERSION@", &package.version);
    let program = filled(PROGRAM);
    let unit = filled(UNIT);
    for (name, script) in [("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)] {
        let script = filled(script);
        package.scripts.entry(name.to_owned()).or_insert_with(|| "#!/bin/sh\nset -e\n".to_owned()).push_str(&script);
    }
    let name = package.name.clone();
    let package_with = std::mem::replace(package, Package::new(&name, ""));
    *package = package_with.file(&format!("/usr/libexec/{name}"), program, 0o755).file(
        &format!("/usr/lib/systemd/system/{name}.service"),
        unit,
        0o644,
    );
}
