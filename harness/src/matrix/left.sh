
if [ -e /usr/sbin/policy-rc.d ]; then echo /usr/sbin/policy-rc.d; fi
ls -d /run/systemd/transient/@NAME@* /run/systemd/system/@NAME@* /tmp/*@NAME@* /etc/apt/apt.conf.d/*@NAME@* 2>/dev/null || :
pgrep -af '^(/usr/bin/)?(real-)?@NAME@( |$)' || :
for process in $(cat /sys/fs/cgroup/system.slice/@NAME@-run.service/cgroup.procs 2>/dev/null); do
    echo "it left a process: $(tr '\0' ' ' </proc/$process/cmdline)"
done
flock --nonblock /run/@NAME@.lock true || echo 'the lock is held'
find /etc /usr -name '*.dpkg-new' -o -name '*.dpkg-tmp' -o -name '*.ucf-new'
find /var/lib/@NAME@ -name '*.new' -o -name '*.tmp' 2>/dev/null || :
