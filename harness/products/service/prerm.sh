
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	deb-systemd-invoke stop '@NAME@.service' >/dev/null || true
fi
