//! Reads /proc/PID/maps: the replaced files that a process maps.

/// How the kernel marks the path of a mapped file that is no longer at it: removed, or replaced by renaming another onto it
/// (`/proc/PID/maps` in proc(5)). It follows the path, not the inode: other hard links to the old file change nothing about it.
const DELETED: &[u8] = b" (deleted)";

/// The directories of temporary files, where no package installs files.
const SHORT_LIVED: [&str; 5] = ["/dev/", "/proc/", "/run/", "/tmp/", "/var/"];

/// The first file that is mapped as code and was replaced or removed since, from the content of `/proc/PID/maps`.
pub(crate) fn replaced(maps: &[u8]) -> Option<String> {
    maps.split(|byte| *byte == b'\n').find_map(replaced_code)
}

/// Reads one line: `7f5c000-7f5d000 r-xp 00001000 fe:00 1181403    /usr/lib/libc.so.6 (deleted)`.
///
/// Device and inode are not compared with what is on disk: on overlayfs and btrfs they differ for one and the same file.
fn replaced_code(line: &[u8]) -> Option<String> {
    // Most lines end here.
    let line = line.strip_suffix(DELETED)?;
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        let field = &rest[..end];
        rest = &rest[end..];
        rest = rest.trim_ascii_start();
        Some(field)
    };
    let (_address, permissions, _offset, _device, inode) = (field()?, field()?, field()?, field()?, field()?);
    if !permissions.contains(&b'x') || inode == b"0" {
        return None;
    }
    let path = String::from_utf8_lossy(rest).into_owned();
    comes_from_a_package(&path).then(|| as_installed(&path).to_owned())
}

/// False for objects that are no files on a disk, and for temporary files: shared memory (`/SYSV…`, `/memfd:…`, `/dev/zero`),
/// what drivers map (`/drm …`, `/[aio]`), files without a name (`/#123`), code that was generated (`/tmp/ffi…`, `orcexec…`).
fn comes_from_a_package(path: &str) -> bool {
    let Some((directory, name)) = path.rsplit_once('/') else { return false };
    // Objects of the kernel have no directory.
    !directory.is_empty()
        && directory.starts_with('/')
        && !is_short_lived(path)
        && !name.starts_with("orcexec.")
        && !name.strip_prefix('#').is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// True for a path below which no package installs files.
pub(crate) fn is_short_lived(path: &str) -> bool {
    SHORT_LIVED.iter().any(|directory| path.starts_with(directory))
}

/// The path as a package has it: dpkg's names for the old and the new file live for as long as it unpacks.
fn as_installed(path: &str) -> &str {
    path.strip_suffix(".dpkg-tmp").or_else(|| path.strip_suffix(".dpkg-new")).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(permissions: &str, path: &str) -> String {
        format!("7ff71ebc9000-7ff71ebdf000 {permissions} 00005000 00:2b 1181437                    {path}\n")
    }

    #[test]
    fn code_that_was_replaced_on_disk_is_seen_among_what_was_not() {
        let maps = [
            line("r-xp", "/usr/sbin/cron"),
            line("r--s", "/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache (deleted)"),
            line("r-xp", "/usr/lib/a library.so (deleted)"),
            "7ffd0-7ffd1 rw-p 00000000 00:00 0    [stack]\n".to_owned(),
        ];
        assert_eq!(replaced(maps.concat().as_bytes()).as_deref(), Some("/usr/lib/a library.so"));
        assert_eq!(replaced((maps[0].clone() + &maps[1] + &maps[3]).as_bytes()), None, "data is no code");
        let unpacking = line("r-xp", "/usr/sbin/cron.dpkg-tmp (deleted)");
        assert_eq!(replaced(unpacking.as_bytes()).as_deref(), Some("/usr/sbin/cron"));
    }

    #[test]
    fn what_no_package_put_there_does_not_count() {
        for path in [
            "/SYSV00000000",
            "/memfd:pulseaudio",
            "/dev/zero",
            "/drm mm object",
            "/[aio]",
            "/anon_hugepage",
            "/tmp/ffiJ3kDk2",
            "/run/user/0/orcexec.Ab12",
            "/home/orcexec.Ab12",
            "/var/tmp/jit.so",
            "/home/me/#4711",
            "[vdso]",
        ] {
            assert_eq!(replaced(line("rwxp", &format!("{path} (deleted)")).as_bytes()), None, "{path}");
        }
        assert!(
            replaced(line("r-xp", "/opt/vendor/lib.so (deleted)").as_bytes()).is_some(),
            "this check finds nothing"
        );
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_nothing_breaks(bytes: Vec<u8>, tail in "[ a-z/#x0()-]{0,60}") {
            let _ = replaced(&bytes);
            let _ = replaced(&[&bytes[..], tail.as_bytes(), DELETED].concat());
        }

        #[test]
        fn every_replaced_library_is_found(name in "[a-z][a-z0-9. +-]{0,30}") {
            let path = format!("/usr/lib/{name}");
            let found = replaced(line("r-xp", &format!("{path} (deleted)")).as_bytes());
            prop_assert_eq!(found.as_deref(), Some(as_installed(&path)).filter(|_| !name.starts_with("orcexec.")));
        }
    }
}
