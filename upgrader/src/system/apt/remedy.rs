//! The remedies for errors of package sources, and of the disk that takes what they deliver.

use crate::model::time;

/// Parts of apt's errors, with the remedy.
const REMEDIES: [(&str, &str); 10] = [
    (
        "require authentication",
        "Something else answers in place of the source: a network with a login page, or a proxy. See to that, then start \
         again.",
    ),
    (
        "No space left on device",
        "`df` and `df -i` show which filesystem is full, and `apt-get clean` removes old downloads. Make room, then start again.",
    ),
    ("Read-only file system", DISK),
    ("Input/output error", DISK),
    ("GPG error: ", KEY),
    ("OpenPGP signature verification failed", KEY),
    (" is not signed", KEY),
    ("Hash Sum mismatch", MIRROR),
    ("File has unexpected size", MIRROR),
    (
        "  404  ",
        "The source may have changed since its lists were read: start again to read them again. If that does not help, ask its \
         publisher.",
    ),
];

const KEY: &str = "Do not upgrade from a source without a trusted signature. If it is to be trusted, install the key of its publisher \
                   where its file in /etc/apt/sources.list.d looks for it (Signed-By); otherwise ask them.";

const DISK: &str = "`dmesg` shows the errors of the disk. If nothing is wrong with it: `mount -o remount,rw` what `findmnt -T /var` shows; if that fails, reboot. \
                    Then start again.";

const MIRROR: &str = "The mirror is being changed, or it is broken, or a proxy keeps old files: start again in a while, or name another mirror \
                      in /etc/apt/sources.list.d.";

/// The remedy for an error of apt, if it is known.
pub(super) fn of(said: &str) -> Option<String> {
    // apt compares the dates in the Release file with this machine's clock.
    let otherwise = if said.contains("is not valid yet") {
        Some("the clock of the source's publisher is")
    } else {
        said.contains("is expired").then_some("the source is out of date")
    };
    if let Some(otherwise) = otherwise {
        return Some(format!(
            "If this machine's clock is wrong (it shows {} UTC), set it; otherwise {otherwise}.",
            time::minute(jiff::Timestamp::now())
        ));
    }
    REMEDIES.iter().find(|(part, _)| said.contains(part)).map(|(_, remedy)| (*remedy).to_owned())
}
