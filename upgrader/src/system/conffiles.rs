//! Finds edited conffiles, and reports what an upgrade did to conffiles.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::exit::Failure;
use crate::files::{self, Place};
use crate::model::conffile::{ConffileOutcome, ConffileResult, EditedConffile};
use crate::model::policy::ConffilePolicy;
use crate::model::size::size;
use crate::system::command::Program;
use crate::system::{dpkg, remove_file};

/// The files that ucf(1) manages, one `MD5SUM  PATH` a line.
const UCF: &str = "/var/lib/ucf/hashfile";

/// The packages of these files, one `PACKAGE  PATH` a line, as far as they are registered (ucfr(1)).
const UCF_REGISTRY: &str = "/var/lib/ucf/registry";

/// The suffixes of the other version of a conffile, which dpkg or ucf saves next to it. dpkg-maintscript-helper(1) makes `.dpkg-bak` when
/// it removes an edited conffile.
const OTHERS: [&str; 5] = [OLD, ".dpkg-dist", ".dpkg-bak", ".ucf-old", ".ucf-dist"];

/// The suffix of the admin's version that was replaced.
const OLD: &str = ".dpkg-old";

/// The suffix of a new version that dpkg has unpacked and not installed. It stays next to a link to another directory, where dpkg does
/// not find it, and next to an edited conffile that dpkg-maintscript-helper(1) has moved. Next to any other file it is the unfinished
/// work of dpkg.
const UNPACKED: &str = ".dpkg-new";

/// The size up to which a file is read, in bytes. Larger ones are no configuration.
const MOST: u64 = 16 << 20;

/// The size up to which two versions are compared, in bytes: the difference goes to the log.
const MOST_COMPARED: u64 = 1 << 20;

/// The size of a conffile from which on an upgrade is refused, in bytes: dpkg computes its sum, holes included.
const MOST_OF_DPKG: u64 = 1 << 30;

/// The conffiles of the packages of the plan, before the packages change.
#[derive(Debug, Default)]
pub(crate) struct ConffileReport {
    files: BTreeMap<PathBuf, Before>,
    packages: Vec<String>,
}

#[derive(Debug, Default)]
struct Before {
    edited: bool,
    sum: Option<String>,
    /// Its content, if the admin had edited it.
    content: Option<Content>,
    /// The other versions that exist next to it, with their sums.
    others: BTreeMap<PathBuf, String>,
}

/// The content, mode and owner of a file.
#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
}

/// The conffiles of these packages, dpkg's and ucf's, that the admin has edited or removed.
pub(crate) fn edited(packages: &[&str], policy: ConffilePolicy) -> Result<Vec<EditedConffile>> {
    let of_dpkg = dpkg::conffiles(packages.iter().copied())?.into_iter().filter(|file| !file.obsolete);
    let of_dpkg = of_dpkg.map(|file| (PathBuf::from(file.path), file.package, file.shipped));
    let owners = parse_ucf(&text_of(UCF_REGISTRY));
    let of_ucf = parse_ucf(&text_of(UCF)).into_iter().filter_map(|(path, shipped)| {
        let is_owner = |(owned, package): &&(PathBuf, String)| *owned == path && packages.contains(&package.as_str());
        let (_, package) = owners.iter().find(is_owner)?;
        Some((path, package.clone(), shipped))
    });
    let mut edited = Vec::new();
    for (path, package, shipped) in of_dpkg.chain(of_ucf) {
        refuse_endless(&path)?;
        let now = files::read(&path, MOST);
        if now.as_deref().ok().map(hex_of::<Md5>) != Some(shipped) {
            let deleted = now.is_err_and(|error| error.kind() == ErrorKind::NotFound);
            edited.push(EditedConffile { path, package, deleted, policy });
        }
    }
    edited.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(edited)
}

/// Refuses a conffile that dpkg would read without end, or could not replace.
fn refuse_endless(path: &Path) -> Result<()> {
    let is_link = files::target(path).is_ok();
    let what = match files::leads_to(path) {
        Ok(found) if found.is_file() && found.len() > MOST_OF_DPKG => {
            format!("has {}, which dpkg reads whole", size(found.len()))
        }
        Ok(found) if is_link && !found.is_file() => {
            "is a link to what is no file, which dpkg cannot replace".to_owned()
        }
        _ => return Ok(()),
    };
    let shown = path.display();
    let failure = Failure::new(format!("the conffile {shown} {what}"));
    Err(failure.remedy(format!("`ls -lL {shown}` shows it. Move it away, then start again.")).into())
}

impl ConffileReport {
    /// Reads the conffiles of these packages, and those of ucf.
    pub(crate) fn begin<'a>(packages: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let packages: Vec<String> = packages.into_iter().map(str::to_owned).collect();
        let mut files = BTreeMap::new();
        for (path, shipped) in known(&packages)? {
            let content = Content::of(&path).ok();
            let bytes = content.as_ref().map(|content| content.bytes.as_slice());
            let edited = bytes.map(hex_of::<Md5>) != Some(shipped);
            let sum = bytes.map(hex_of::<Sha256>);
            let others = others_of(&path);
            let content = content.filter(|_| edited);
            files.insert(path, Before { edited, sum, content, others });
        }
        Ok(Self { files, packages })
    }

    /// Reports what the upgrade did to the conffiles. Saves the admin's version as `.dpkg-old` if dpkg, ucf and the maintainer scripts did not.
    pub(crate) fn finish(self) -> Result<Vec<ConffileResult>> {
        let now: BTreeSet<PathBuf> = known(&self.packages)?.into_iter().map(|(path, _)| path).collect();
        let nothing = Before::default();
        let paths: BTreeSet<&PathBuf> = now.iter().chain(self.files.keys()).collect();
        let mut entries = Vec::new();
        for path in paths {
            let before = self.files.get(path).unwrap_or(&nothing);
            let Some(mut entry) = result(path, before, others_of(path)) else { continue };
            if entry.outcome == ConffileOutcome::Replaced
                && entry.other.is_none()
                && let Some(content) = &before.content
            {
                entry.other = Some(content.put_beside(path)?);
            }
            entries.push(entry);
        }
        self.follow_moves(&mut entries);
        Ok(entries)
    }

    /// Finds edited conffiles that a package has moved: removed at one path and new with the same content at another.
    fn follow_moves(&self, entries: &mut [ConffileResult]) {
        let is_edited = |path: &Path| self.files.get(path).is_some_and(|before| before.edited);
        for from in 0..entries.len() {
            let ConffileResult { path, outcome, other, sha256_before, .. } = &entries[from];
            if *outcome != ConffileOutcome::Removed || other.is_some() || !is_edited(path) {
                continue;
            }
            let sum = sha256_before.clone();
            let Some(to) = entries.iter_mut().find(|to| to.outcome == ConffileOutcome::New && to.sha256_after == sum)
            else {
                continue;
            };
            to.outcome = ConffileOutcome::Kept;
            to.other = Some(beside(&to.path, UNPACKED)).filter(|other| files::open(other).is_ok());
            entries[from].other = Some(to.path.clone());
        }
    }
}

impl Content {
    fn of(path: &Path) -> io::Result<Self> {
        let file = files::open(path)?;
        let metadata = file.metadata()?;
        let (mode, owner) = (metadata.mode() & 0o7777, (metadata.uid(), metadata.gid()));
        Ok(Self { bytes: files::read_open(file, MOST)?, mode, owner })
    }

    /// Writes the content next to its file, with the suffix `.dpkg-old`.
    fn put_beside(&self, path: &Path) -> Result<PathBuf> {
        let old = beside(path, OLD);
        let write = || {
            // A new file: nobody can read it before its mode and owner are set.
            remove_file(&old)?;
            let mut file = Place::of(&old)?.create()?;
            file.write_all(&self.bytes)?;
            fchown(&file, Some(self.owner.0), Some(self.owner.1))?;
            file.set_permissions(Permissions::from_mode(self.mode))?;
            file.sync_all()
        };
        write().with_context(|| format!("{}: your version cannot be kept", old.display()))?;
        Ok(old)
    }
}

/// The difference between the older and the newer version, line by line (diff(1)).
pub(crate) fn difference(conffile: &ConffileResult, line: &mut dyn FnMut(&str)) -> Result<()> {
    let Some((old, new)) = conffile.versions() else { return Ok(()) };
    let files = (readable(old)?, readable(new)?);
    let access = |file: &File| file.metadata().map(|it| (it.uid(), it.mode() & 0o044));
    if access(&files.0)? != access(&files.1)? {
        // One that others cannot read is not shown because of a name that its directory's owner gave it.
        return Ok(());
    }
    // By their descriptors in this process: the names may lead elsewhere meanwhile.
    let path = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let diff = Program::new("diff").args(["--unified", "--label"]).arg(old).arg("--label").arg(new);
    diff.args([path(&files.0), path(&files.1)]).stdout()?.lines().for_each(line);
    Ok(())
}

/// Opens a file that is not too large to be compared.
fn readable(path: &Path) -> Result<File> {
    let open = || {
        let file = files::open(path)?;
        if file.metadata()?.len() > MOST_COMPARED { Err(io::Error::from(ErrorKind::FileTooLarge)) } else { Ok(file) }
    };
    open().with_context(|| path.display().to_string())
}

/// Compares a conffile with its state before the upgrade.
fn result(path: &Path, before: &Before, others: BTreeMap<PathBuf, String>) -> Option<ConffileResult> {
    let after = files::read(path, MOST).ok().as_deref().map(hex_of::<Sha256>);
    // Other versions from before this upgrade do not count.
    let other = others.into_iter().find(|(path, sum)| before.others.get(path) != Some(sum)).map(|(path, _)| path);
    let outcome = match (&before.sum, &after) {
        (before, after) if before == after => {
            other.as_ref()?;
            ConffileOutcome::Kept
        }
        (None, Some(_)) if before.edited => ConffileOutcome::Back,
        (None, Some(_)) => ConffileOutcome::New,
        (Some(_), None) => ConffileOutcome::Removed,
        _ if before.edited => ConffileOutcome::Replaced,
        _ => ConffileOutcome::Updated,
    };
    let (path, sha256_before) = (path.to_owned(), before.sum.clone());
    Some(ConffileResult { path, outcome, other, sha256_before, sha256_after: after })
}

/// The conffiles of these packages and those of ucf, each with the MD5 sum of the version that was shipped.
fn known(packages: &[String]) -> Result<Vec<(PathBuf, String)>> {
    let conffiles = dpkg::conffiles(packages.iter().map(String::as_str))?;
    let mut known: Vec<_> = conffiles.into_iter().map(|file| (PathBuf::from(file.path), file.shipped)).collect();
    known.extend(parse_ucf(&text_of(UCF)));
    Ok(known)
}

/// Reads `MD5SUM  PATH` lines; others are passed over.
fn parse_ucf(text: &str) -> Vec<(PathBuf, String)> {
    text.lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(sum, path)| (PathBuf::from(path.trim_start()), sum.to_owned()))
        .filter(|(path, _)| path.is_absolute())
        .collect()
}

/// The other versions next to a file or next to the target of its link, with their SHA-256 sums.
fn others_of(path: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let target = files::canonical(path).unwrap_or_else(|_| path.to_owned());
    let beside_link = files::read_link(path).ok().flatten().map(|_| UNPACKED);
    for place in BTreeSet::from([path.to_owned(), target]) {
        for suffix in OTHERS.into_iter().chain(beside_link) {
            let other = beside(&place, suffix);
            if let Ok(content) = files::read(&other, MOST) {
                found.insert(other, hex_of::<Sha256>(&content));
            }
        }
    }
    found
}

/// The text of a file of ucf; empty if there is none.
fn text_of(path: &str) -> String {
    files::read(Path::new(path), MOST).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
}

/// The path of another version of a file.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut other = path.as_os_str().to_owned();
    other.push(suffix);
    PathBuf::from(other)
}

fn hex_of<D: Digest>(content: &[u8]) -> String {
    D::digest(content).iter().fold(String::new(), |mut hex, byte| {
        use fmt::Write as _;
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The result for a conffile that was `before` and then `change`d.
    fn result_text(before: Option<&str>, edited: bool, change: impl Fn(&Path)) -> Option<String> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.conf");
        if let Some(text) = before {
            fs::write(&path, text).expect("written");
        }
        // Left by an upgrade long ago.
        fs::write(directory.path().join("a.conf.dpkg-old"), "ancient").expect("written");
        let sum = before.map(|text| hex_of::<Sha256>(text.as_bytes()));
        let before = Before { edited, sum, content: None, others: others_of(&path) };
        change(&path);
        let entry = result(&path, &before, others_of(&path))?;
        Some(entry.to_string().replace(&directory.path().display().to_string(), "/etc"))
    }

    fn put(path: &Path, suffix: &str, text: &str) {
        fs::write(format!("{}{suffix}", path.display()), text).expect("written");
    }

    #[test]
    fn the_result_of_each_conffile_is_in_words() {
        let say = |text: Option<String>| text.unwrap_or_else(|| "nothing".to_owned());
        insta::assert_snapshot!([
            say(result_text(Some("mine"), true, |_| ())),
            say(result_text(Some("mine"), true, |path| put(path, ".dpkg-dist", "theirs"))),
            say(result_text(Some("mine"), true, |path| { put(path, "", "theirs"); put(path, ".dpkg-old", "mine") })),
            say(result_text(Some("mine"), true, |path| put(path, "", "theirs"))),
            say(result_text(Some("old"), false, |path| put(path, "", "new"))),
            say(result_text(None, false, |path| put(path, "", "new"))),
            say(result_text(Some("old"), false, |path| fs::remove_file(path).expect("removed"))),
            say(result_text(None, true, |_| ())),
            say(result_text(None, true, |path| put(path, "", "theirs"))),
            say(result_text(None, true, |path| put(path, ".dpkg-dist", "theirs"))),
            say(result_text(Some("mine"), true, |path| fs::rename(path, path.with_extension("conf.dpkg-bak")).expect("renamed"))),
            say(result_text(Some("mine"), true, |path| {
                let elsewhere = path.with_file_name("elsewhere");
                fs::rename(path, &elsewhere).expect("renamed");
                std::os::unix::fs::symlink(&elsewhere, path).expect("linked");
                put(path, ".dpkg-new", "theirs");
            })),
            say(result_text(Some("mine"), true, |path| put(path, ".dpkg-new", "not yet"))),
        ].join("\n"), @r#"
        nothing
        Kept your /etc/a.conf; the package's version is /etc/a.conf.dpkg-dist
        Replaced /etc/a.conf with the package's version; yours is /etc/a.conf.dpkg-old
        Replaced /etc/a.conf with the package's version; yours is gone
        Updated /etc/a.conf to the package's version
        /etc/a.conf is new
        Removed /etc/a.conf
        nothing
        Restored /etc/a.conf, which you had removed
        /etc/a.conf stays removed; the package's version is /etc/a.conf.dpkg-dist
        Removed /etc/a.conf; yours is /etc/a.conf.dpkg-bak
        Kept your /etc/a.conf; the package's version is /etc/a.conf.dpkg-new
        nothing
        "#);
    }

    #[test]
    fn the_admins_version_is_saved_with_its_mode_and_not_through_a_link() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, old) = (directory.path().join("a.conf"), directory.path().join("a.conf.dpkg-old"));
        fs::write(&path, "mine").expect("written");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("mode set");
        let content = Content::of(&path).expect("there");
        fs::write(&path, "theirs").expect("written");
        std::os::unix::fs::symlink(&path, &old).expect("linked");
        assert_eq!(content.put_beside(&path).expect("written"), old);
        assert_eq!(fs::read(&path).expect("there"), b"theirs");
        assert_eq!(fs::read(&old).expect("there"), b"mine");
        assert_eq!(old.symlink_metadata().expect("there").mode() & 0o7777, 0o640);
    }

    #[test]
    fn an_edited_file_that_was_moved_is_still_the_admins() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let entry = |name: &str, outcome: ConffileOutcome, before: Option<&str>, after: Option<&str>| ConffileResult {
            path: path(name),
            outcome,
            other: None,
            sha256_before: before.map(str::to_owned),
            sha256_after: after.map(str::to_owned),
        };
        put(&path("to.conf"), UNPACKED, "theirs");
        let edited = |name: &str, edited: bool| (path(name), Before { edited, ..Before::default() });
        let files = BTreeMap::from([edited("from.conf", true), edited("same.conf", false)]);
        let mut entries = [
            entry("from.conf", ConffileOutcome::Removed, Some("mine"), None),
            entry("other.conf", ConffileOutcome::New, None, Some("same")),
            entry("same.conf", ConffileOutcome::Removed, Some("same"), None),
            entry("to.conf", ConffileOutcome::New, None, Some("mine")),
        ];
        ConffileReport { files, packages: Vec::new() }.follow_moves(&mut entries);
        let shown = entries.map(|entry| entry.to_string().replace(&directory.path().display().to_string(), "/etc"));
        insta::assert_snapshot!(shown.join("\n"), @r"
        Removed /etc/from.conf; yours is /etc/to.conf
        /etc/other.conf is new
        Removed /etc/same.conf
        Kept your /etc/to.conf; the package's version is /etc/to.conf.dpkg-new
        ");
    }

    #[test]
    fn the_other_version_lies_beside_what_a_link_points_to() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("real")).expect("created");
        let (link, target) = (directory.path().join("a.conf"), directory.path().join("real/a.conf"));
        fs::write(&target, "mine").expect("written");
        std::os::unix::fs::symlink(&target, &link).expect("linked");
        put(&target, ".dpkg-dist", "theirs");
        assert_eq!(others_of(&link).len(), 1);
    }

    #[test]
    fn lines_of_ucf_that_are_none_are_passed_over() {
        let read = parse_ucf("d41d8  /etc/default/x y\n\nnonsense\nabc relative\n");
        assert_eq!(read, [(PathBuf::from("/etc/default/x y"), "d41d8".to_owned())]);
    }
}
