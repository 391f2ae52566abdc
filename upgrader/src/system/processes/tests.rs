use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

/// A machine in a directory: processes, and the files that they run.
struct Machine {
    directory: tempfile::TempDir,
    processes: Processes,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (proc, root) = (directory.path().join("proc"), directory.path().to_owned());
        let machine = Self { directory, processes: Processes { proc, root, boot: SystemTime::now() } };
        machine.process(1, "init.scope", "/usr/lib/systemd/systemd", "");
        machine
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("created");
        fs::write(path, content).expect("written");
    }

    /// A process that began when the machine booted and maps its program; `mark` follows the program's path.
    fn process(&self, id: u32, group: &str, program: &str, mark: &str) {
        self.write(&format!("proc/{id}/maps"), format!("0-1 r-xp 00000000 fe:00 1  {program}{mark}\n"));
        self.write(&format!("proc/{id}/cgroup"), format!("0::/{group}\n"));
        self.write(&format!("proc/{id}/comm"), format!("{}\n", program.rsplit('/').next().unwrap_or_default()));
        self.write(&format!("proc/{id}/stat"), format!("{id} (a) name) S {}0 0\n", "1 ".repeat(18)));
        symlink(program, self.processes.file(id, "exe")).expect("linked");
        fs::create_dir(self.processes.file(id, "ns")).expect("created");
        symlink("pid:[1]", self.processes.file(id, "ns/pid")).expect("linked");
    }

    /// A Perl service that began when the machine booted; `age` is how much older than that its script is.
    fn perl_service(&self, id: u32, script: &str, age: Duration) {
        self.process(id, &format!("system.slice/perl{id}.service"), "/usr/bin/perl", "");
        self.write(&format!("proc/{id}/cmdline"), format!("/usr/bin/perl\0-w\0{script}\0--foreground\0"));
        self.set_time(script, self.processes.boot - age);
    }

    fn set_time(&self, path: &str, time: SystemTime) {
        let path = self.directory.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("it has one")).expect("created");
        let file = fs::File::options().append(true).create(true).open(path).expect("it is there");
        file.set_modified(time).expect("set");
    }

    fn obsolete_services(&self) -> Vec<String> {
        self.processes.obsolete().expect("readable").services.into_keys().collect()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn what_started_this_program_as_a_service_ends_with_it() {
    let machine = Machine::new();
    machine.process(std::process::id(), "system.slice/a-upgrade-run.service", "/usr/bin/real-a-upgrade", "");
    for (id, unit) in [(2, "a-upgrade-run.service"), (3, "other.service")] {
        machine.process(id, "", "/usr/bin/systemd-run", " (deleted)");
        machine.write(&format!("proc/{id}/cmdline"), format!("systemd-run\0--pipe\0--unit={unit}\0--\0sleep\0"));
    }
    machine.write("proc/3/comm", "other\n");
    let started_us = |id| machine.processes.has_started_us(id);
    assert!(started_us(2) && !started_us(3));
    assert_eq!(machine.processes.obsolete().expect("readable").others, BTreeSet::from(["other".to_owned()]));
}

#[test]
fn processes_of_replaced_files_are_found_with_whom_they_belong_to() {
    let machine = Machine::new();
    for (id, group, program, mark) in [
        (10, "system.slice/cron.service", "/usr/sbin/cron", " (deleted)"),
        (11, "system.slice/cron.service", "/usr/lib/libc.so.6", " (deleted)"),
        (12, "system.slice/ssh.service", "/usr/sbin/sshd", ""),
        (13, "user.slice/user-0.slice/session-3.scope", "/usr/bin/bash", " (deleted)"),
        (14, "machine.slice/machine-guest.scope", "/usr/bin/qemu", " (deleted)"),
        (15, "", "/usr/bin/screen", " (deleted)"),
    ] {
        machine.process(id, group, program, mark);
    }
    machine.write("proc/16/maps", "");
    machine.write("proc/cpuinfo", "no process");
    let found = machine.processes.obsolete().expect("readable");
    let mut cron = found.services["cron.service"].clone();
    cron.sort_unstable();
    assert_eq!(cron, [10, 11]);
    assert_eq!(found.services.len(), 1);
    assert_eq!(found.sessions, ["session-3.scope".to_owned()].into());
    assert_eq!(found.others, ["screen".to_owned()].into());
    assert_eq!(found.manager, None);
    assert!(machine.processes.replaced_file(10).is_some() && machine.processes.replaced_file(12).is_none());

    machine.write("proc/1/maps", "0-1 r-xp 0 fe:00 1  /usr/lib/libc.so.6 (deleted)\n");
    assert_eq!(machine.processes.obsolete().expect("readable").manager.as_deref(), Some("/usr/lib/libc.so.6"));
}

#[test]
fn a_container_is_not_ours_even_if_its_group_looks_like_a_service() {
    let machine = Machine::new();
    machine.process(20, "system.slice/phone.service", "/usr/bin/phone", " (deleted)");
    assert_eq!(machine.obsolete_services(), ["phone.service"]);
    let namespace = machine.processes.file(20, "ns/pid");
    fs::remove_file(&namespace).expect("removed");
    symlink("pid:[2]", namespace).expect("linked");
    assert!(machine.obsolete_services().is_empty());
}

#[test]
fn a_script_that_is_newer_than_its_process_counts() {
    let machine = Machine::new();
    machine.perl_service(30, "/usr/sbin/munin-node", HOUR);
    assert!(machine.obsolete_services().is_empty());
    machine.set_time("/usr/sbin/munin-node", machine.processes.boot);
    assert!(machine.obsolete_services().is_empty(), "it began with this script");
    machine.set_time("/usr/sbin/munin-node", machine.processes.boot + HOUR);
    assert_eq!(machine.obsolete_services(), ["perl30.service"]);
}

#[test]
fn a_script_of_a_package_that_was_unpacked_since_counts_however_old_the_package_is() {
    let mut machine = Machine::new();
    // Its inode is newer than its process, which began an hour ago, and so is the list of an unrelated package.
    machine.processes.boot -= HOUR;
    machine.perl_service(40, "/usr/sbin/munin-node", HOUR);
    machine.write("var/lib/dpkg/info/other.list", "/.\n/usr/sbin/munin-nodeX\n");
    assert!(machine.obsolete_services().is_empty(), "a hard link changes the inode as well");
    machine.write("var/lib/dpkg/info/munin-node.list", "/.\n/sbin/munin-node\n");
    assert_eq!(machine.obsolete_services(), ["perl40.service"]);
    machine.set_time("/var/lib/dpkg/info/munin-node.list", machine.processes.boot - HOUR);
    assert!(machine.obsolete_services().is_empty(), "that package was unpacked before the process began");
}

#[test]
fn a_python_module_is_a_script_too() {
    let machine = Machine::new();
    machine.process(50, "system.slice/provd.service", "/usr/bin/python3.11", "");
    machine.write("proc/50/cmdline", "/usr/bin/python3\0-m\0provd.main\0");
    let module = "usr/lib/python3/dist-packages/provd/main.py";
    machine.set_time(module, machine.processes.boot - HOUR);
    assert!(machine.obsolete_services().is_empty());
    machine.set_time(module, machine.processes.boot + HOUR);
    assert_eq!(machine.obsolete_services(), ["provd.service"]);
}

#[test]
fn this_machine_has_processes_and_this_one_runs_what_is_on_disk() {
    let processes = Processes::of_this_machine();
    processes.obsolete().expect("there is a /proc");
    assert_eq!(processes.replaced_file(std::process::id()), None);
    let began = processes.began(std::process::id()).expect("it began");
    let age = SystemTime::now().duration_since(began).expect("it began before now");
    assert!(age < HOUR, "{age:?}");
}

#[test]
fn without_a_proc_file_system_nothing_is_said_to_be_up_to_date() {
    let mut machine = Machine::new();
    machine.processes.proc = machine.directory.path().join("absent");
    assert!(machine.processes.obsolete().is_err());
}

proptest! {
    #[test]
    fn whatever_is_in_stat_nothing_breaks(bytes: Vec<u8>, name: String, ticks: u64) {
        let _ = ticks_at_start(&bytes);
        let stat = format!("7 ({name}) S {}{ticks} 4096 3\n", "1 ".repeat(18));
        prop_assert_eq!(ticks_at_start(stat.as_bytes()), Some(ticks));
    }
}
