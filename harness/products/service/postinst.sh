
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
