//! A machine in a directory, and the upgrades of it, for the tests.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, llistxattr, lsetxattr, makedev, mknodat};

use crate::model::package::PackageName;
use crate::paths::Paths;
use crate::rollback::manifest::SaveMethod;
use crate::rollback::{Restored, Scope, Store, open, save};

/// A capability as the kernel has it: `cap_net_bind_service=ep`.
pub(super) const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A machine in a directory.
pub(super) struct Machine {
    pub(super) root: tempfile::TempDir,
    pub(super) paths: Paths,
    pub(super) scope: Scope,
}

impl Machine {
    /// One without anything but what dpkg needs.
    pub(super) fn bare() -> Self {
        // In memory, where there is room for that: each rollback waits until all is on disk.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let root = tempfile::tempdir_in(directory).unwrap();
        let paths = Paths::of_program(Path::new("/usr/bin/acme-upgrade")).unwrap().below(root.path());
        let machine = Self { root, paths, scope: Scope::default() };
        for directory in
            ["usr/lib", "usr/bin", "boot", "etc", "opt", "srv", "var/cache/debconf", "var/lib/acme-upgrade"]
        {
            fs::create_dir_all(machine.at(directory)).unwrap();
        }
        symlink("usr/lib", machine.at("lib")).unwrap();
        machine.write("var/lib/dpkg/status", "all packages");
        machine.write("var/lib/dpkg/lock", "");
        machine.write("var/lib/dpkg/diversions", "");
        machine.package("acme-upgrade", &["/usr/bin/acme-upgrade"]);
        machine
    }

    /// One with every kind of entry.
    pub(super) fn full() -> Self {
        let mut machine = Self::bare();
        machine.scope = Scope {
            packages: ["libc6:amd64", "tool", "gone", "new"].map(PackageName::from).to_vec(),
            declared: vec![PathBuf::from("/var/lib/acme")],
        };
        let odd = OsStr::from_bytes(b"odd\xff\n name");
        machine.package(
            "libc6:amd64",
            &["/lib", "/lib/ld-linux.so.2", "/lib/libc.so.6", "/usr/lib/liba.so.1", "/usr/lib/liba.so.1.1"],
        );
        machine.package(
            "other",
            &["/usr/bin", "/usr/bin/other", "/etc/other.conf", "/opt/vendor/bin", "/usr/share/doc/other"],
        );
        machine.package("gone", &["/usr/share/gone/data", "/etc/gone.conf", "/srv/gone/page"]);
        machine.package(
            "tool",
            &words(
                "/bin/tool /usr/bin/su /usr/bin/ping /usr/bin/perl /usr/bin/perl5 /usr/bin/link \
                 /etc/tool.conf /etc/linked.conf /usr/share/doc/tool /usr/share/doc/tool/readme \
                 /usr/share/theme /usr/share/pipe /usr/lib/null /usr/lib/log.db /var/lib/tool/state \
                 /usr/bin/diverted /boot/vmlinuz",
            ),
        );
        machine.write("var/lib/dpkg/diversions", "/usr/bin/diverted\n/usr/bin/diverted.distrib\nother\n");
        symlink("usr/bin", machine.at("bin")).unwrap();
        for file in words(
            "usr/lib/ld-linux.so.2 usr/lib/libc.so.6 usr/lib/liba.so.1.1 usr/bin/other usr/bin/tool \
             usr/bin/su usr/bin/ping usr/bin/perl usr/share/gone/data etc/gone.conf srv/gone/page \
             etc/tool.conf etc/other.conf usr/share/doc/tool/readme usr/share/themes/a/file usr/lib/log.db \
             var/lib/tool/state usr/bin/diverted usr/bin/diverted.distrib opt/vendor/bin opt/vendor/unowned \
             srv/elsewhere.conf usr/lib/python3/__pycache__/a.pyc boot/vmlinuz boot/grub/grub.cfg \
             usr/local/bin/mine var/lib/acme/data var/lib/acme/more/data var/lib/ucf/hashfile \
             var/cache/debconf/config.dat var/lib/service/data usr/share/doc/other/readme \
             usr/bin/acme-upgrade etc/copied-1",
        ) {
            machine.write(file, file);
        }
        machine.write(Path::new("usr/share").join(odd), "odd");
        fs::hard_link(machine.at("usr/bin/perl"), machine.at("usr/bin/perl5")).unwrap();
        fs::hard_link(machine.at("etc/copied-1"), machine.at("etc/copied-2")).unwrap();
        for (target, link) in [
            ("liba.so.1.1", "usr/lib/liba.so.1"),
            ("tool", "usr/bin/link"),
            ("themes", "usr/share/theme"),
            ("/srv/elsewhere.conf", "etc/linked.conf"),
            ("/nowhere", "etc/dangling"),
            ("other", "usr/bin/alternative"),
        ] {
            symlink(target, machine.at(link)).unwrap();
        }
        mknodat(CWD, machine.at("usr/share/pipe"), FileType::Fifo, Mode::from_raw_mode(0o622), 0).unwrap();
        machine.add_what_only_root_can_make();
        machine.mode("usr/bin/su", 0o6755);
        machine.mode("etc/tool.conf", 0o640);
        machine.xattr("etc/tool.conf", "user.note", b"by \xff hand");
        machine.age();
        machine
    }

    fn add_what_only_root_can_make(&self) {
        self.write("usr/lib/null", "a device, where one can be made");
        if is_root() {
            self.remove("usr/lib/null");
            mknodat(CWD, self.at("usr/lib/null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3))
                .unwrap();
            chown(self.at("usr/bin/su"), Some(0), Some(42)).unwrap();
            self.xattr("usr/bin/ping", "security.capability", &CAPABILITY);
        }
    }

    /// Where a path is, in this machine's directory.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(path)
    }

    pub(super) fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }

    /// As dpkg puts a new version in the place of another: by a rename, and the old one loses its setuid bits.
    pub(super) fn replace(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.at(path);
        let new = path.with_file_name("x.dpkg-new");
        fs::write(&new, text).unwrap();
        if path.symlink_metadata().is_ok_and(|old| old.is_file() && old.mode() & 0o7000 != 0) {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        fs::rename(new, path).unwrap();
    }

    pub(super) fn remove(&self, path: impl AsRef<Path>) {
        let path = self.at(path);
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    pub(super) fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(super) fn xattr(&self, path: &str, name: &str, value: &[u8]) {
        lsetxattr(self.at(path), name, value, XattrFlags::empty()).unwrap();
    }

    /// What dpkg has in its database of a package.
    pub(super) fn package(&self, name: &str, files: &[&str]) {
        self.write(format!("var/lib/dpkg/info/{name}.list"), &format!("/.\n{}\n", files.join("\n")));
    }

    /// As if all had been there for long.
    fn age(&self) {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
        for path in self.everything() {
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_file() || kind.is_dir() {
                File::open(path).unwrap().set_modified(time).unwrap();
            }
        }
    }

    pub(super) fn save(&self) -> Store {
        save(&self.paths, &self.scope, &mut |_| ()).unwrap();
        open(&self.paths).unwrap().unwrap()
    }

    /// Rolls back, and checks that the machine is what it was.
    pub(super) fn rolls_back_to(&self, store: &Store, before: &BTreeMap<PathBuf, String>) -> Restored {
        let restored = store.restore(&mut |_| ()).unwrap();
        assert_eq!(store.compare().unwrap(), []);
        assert_same(before, &self.listing());
        restored
    }

    /// All of the machine without the upgrader's own state, read without the code under test.
    pub(super) fn listing(&self) -> BTreeMap<PathBuf, String> {
        let mut inodes: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
        let mut listing = BTreeMap::new();
        for path in self.everything() {
            let name = path.strip_prefix(self.root.path()).unwrap().to_owned();
            let it = path.symlink_metadata().unwrap();
            let mut text = format!("{:o} {}:{} {}.{:09}", it.mode(), it.uid(), it.gid(), it.mtime(), it.mtime_nsec());
            if it.is_file() {
                let first = inodes.entry((it.dev(), it.ino())).or_insert_with(|| name.clone());
                // Nobody reads terabytes of zeros.
                let content = if it.len() > 1 << 20 { Vec::new() } else { fs::read(&path).unwrap() };
                let content = content.escape_ascii().to_string();
                write!(text, " {} {content:?} as {}", it.len(), first.display()).unwrap();
            } else if it.is_symlink() {
                write!(text, " -> {}", path.read_link().unwrap().display()).unwrap();
            } else {
                write!(text, " {}", it.rdev()).unwrap();
            }
            let mut names = [0; 256];
            let size = llistxattr(&path, &mut names[..]).unwrap();
            for attribute in names[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
                let mut value = [0; 256];
                let size = lgetxattr(&path, attribute, &mut value[..]).unwrap();
                write!(text, " {}={}", attribute.escape_ascii(), value[..size].escape_ascii()).unwrap();
            }
            listing.insert(name, text);
        }
        listing
    }

    fn everything(&self) -> Vec<PathBuf> {
        let (mut found, mut ahead) = (Vec::new(), vec![self.root.path().to_owned()]);
        while let Some(directory) = ahead.pop() {
            for entry in directory.read_dir().unwrap() {
                let path = entry.unwrap().path();
                if path == self.paths.state() || path.ends_with(".acme-upgrade-rollback") {
                    continue;
                }
                if path.is_dir() && !path.is_symlink() {
                    ahead.push(path.clone());
                }
                found.push(path);
            }
        }
        found.sort();
        found
    }
}

/// The words of a text.
fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

/// Compares two listings, and shows only in what they differ.
pub(super) fn assert_same(before: &BTreeMap<PathBuf, String>, after: &BTreeMap<PathBuf, String>) {
    let only = |these: &BTreeMap<PathBuf, String>, others: &BTreeMap<PathBuf, String>| -> Vec<String> {
        let differ = these.iter().filter(|(path, text)| others.get(*path) != Some(text));
        differ.map(|(path, text)| format!("{} {text}", path.display())).collect()
    };
    let (before, after) = (only(before, after), only(after, before));
    assert!(before.is_empty() && after.is_empty(), "before:\n{}\nafter:\n{}", before.join("\n"), after.join("\n"));
}

/// True if rollback data has links: elsewhere than on btrfs, XFS and overlayfs.
pub(super) fn has_links(store: &Store) -> bool {
    let mut stored = store.manifest.lines.values().filter_map(|line| line.stored.as_ref());
    stored.any(|stored| stored.how == SaveMethod::Link)
}

/// True if owners, devices and capabilities can be made.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What an upgrade does to [`Machine::full`]: everything that can be undone.
pub(super) fn upgrade(machine: &Machine) {
    for file in words(
        "usr/lib/ld-linux.so.2 usr/lib/libc.so.6 usr/bin/tool usr/bin/su usr/bin/ping usr/bin/perl \
         etc/tool.conf srv/elsewhere.conf boot/grub/grub.cfg var/lib/acme/data usr/bin/diverted.distrib \
         usr/lib/python3/__pycache__/a.pyc var/lib/dpkg/status var/lib/ucf/hashfile etc/copied-1",
    ) {
        machine.replace(file, "new");
    }
    // The package tool is unpacked with another owner, and what it has is moved around.
    for (path, text) in [
        ("usr/lib/liba.so.1.2", "new"),
        ("usr/share/new/file", "new"),
        ("etc/new/conf", "new"),
        ("srv/new/page", "new"),
        ("var/lib/new/data", "new"),
        ("opt/new/file", "new"),
        ("boot/vmlinuz-2", "new"),
        ("usr/share/theme.d/x", "x"),
    ] {
        machine.write(path, text);
    }
    for path in words(
        "usr/lib/liba.so.1 usr/lib/liba.so.1.1 usr/share/gone etc/gone.conf srv/gone usr/bin/perl5 \
         usr/share/pipe usr/lib/null usr/share/doc/tool usr/share/theme usr/bin/alternative var/lib/tool \
         etc/dangling var/lib/acme/more var/lib/dpkg/info/gone.list",
    ) {
        machine.remove(path);
    }
    machine.remove(Path::new("usr/share").join(OsStr::from_bytes(b"odd\xff\n name")));
    symlink("liba.so.1.2", machine.at("usr/lib/liba.so.1")).unwrap();
    symlink("other", machine.at("usr/share/doc/tool")).unwrap();
    symlink("/usr/bin/tool", machine.at("usr/bin/alternative")).unwrap();
    // A link became a directory, a device a file, a file a directory.
    machine.write("usr/share/theme/new/file", "new");
    machine.write("usr/lib/null", "a file now");
    machine.remove("usr/bin/link");
    machine.write("usr/bin/link/file", "new");
    // A new package diverts a file of one that stays.
    fs::rename(machine.at("usr/bin/other"), machine.at("usr/bin/other.new")).unwrap();
    machine.write("usr/bin/other", "of the new package");
    machine.replace(
        "var/lib/dpkg/diversions",
        "/usr/bin/diverted\n/usr/bin/diverted.distrib\nother\n/usr/bin/other\n/usr/bin/other.new\nnew\n",
    );
    machine.package(
        "new",
        &["/usr/share/new/file", "/etc/new/conf", "/srv/new", "/srv/new/page", "/var/lib/new", "/usr/bin/other"],
    );
    machine.mode("usr/lib/python3", 0o700);
    machine.xattr("etc/other.conf", "user.new", b"1");
    if is_root() {
        chown(machine.at("usr/lib/log.db"), Some(7), Some(7)).unwrap();
    }
}
