//! The journal of a run: every step is on the disk before the run continues, so that another process can resume it or roll it back.

use std::fs::File;
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::exit::{Exit, Explain as _, Failure};
use crate::files;
use crate::files::Place;
use crate::model::hook::{HookOutcome, Phase};
use crate::model::plan::Plan;
use crate::model::step::Step;
use crate::paths::Paths;
use crate::rollback;
use crate::system::reboot;
use crate::system::remove_file;

mod past;

pub(crate) use past::PastRun;

/// The version of the journal's form. It grows when an older upgrader could not resume a run of a newer one.
const VERSION: u32 = 1;

/// Space that is reserved for the journal, in bytes: a run can be rolled back even when the disk is full.
const RESERVED: u64 = 256 * 1024;

/// The length of a line's checksum: the beginning of the SHA-256 of the rest, in hex.
const SUM: usize = 16;

/// An entry of the journal. A step begins only once its entry is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(crate) enum JournalEntry {
    /// The run begins. The first entry, and only the first.
    Began {
        version: u32,
        upgrader: String,
        /// When the run started: the name of its report in the history.
        started: Timestamp,
        plan: Box<Plan>,
        /// The boot of the machine in which it began: `/proc/sys/kernel/random/boot_id`.
        #[serde(default)]
        boot: String,
    },
    /// Another process resumes the run, by this plan.
    Resumed {
        /// The rest of the first plan, or a new one that the admin has agreed to.
        plan: Box<Plan>,
        at_boot: bool,
        /// The boot of the machine in which it was resumed.
        #[serde(default)]
        boot: String,
    },
    /// The machine lost its power while packages changed: the rollback data is about to be restored.
    RollingBackPackages,
    /// It is restored: the pre-upgrade hooks run again, and the packages are upgraded again.
    PackagesRolledBack,
    /// A step is about to begin.
    StepBegan(Step),
    /// A step ended without failing.
    StepEnded(Step),
    /// A hook is about to run.
    HookBegan(Phase, PathBuf),
    /// A hook ran.
    HookEnded(Phase, PathBuf, HookOutcome),
    /// The rollback data is saved; these units are active.
    Active(Vec<String>),
    /// The first migration of the database is about to begin; this is the dump.
    Migrating(PathBuf),
    /// The run is rolled back, for this reason.
    RollingBack(String),
    /// The run stopped with this exit code; the machine may be partially upgraded.
    Stopped(Exit),
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    time: Timestamp,
    #[serde(flatten)]
    entry: JournalEntry,
}

/// The journal of a run. The file exists as long as the machine may be partially upgraded.
///
/// Each line is JSON behind its checksum. Unknown entries are skipped: a newer upgrader may have written them. An incomplete last line,
/// which a power cut leaves, is ignored.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    /// The length of its complete lines, in bytes.
    whole: u64,
    path: PathBuf,
    last: PathBuf,
}

impl Journal {
    pub(crate) fn begin(paths: &Paths, started: Timestamp, plan: &Plan) -> Result<Self> {
        let (path, last) = (paths.journal(), paths.last_journal());
        let new = path.with_extension("new");
        let begin = || -> std::io::Result<(File, u64)> {
            files::make_own(&paths.state())?;
            remove_file(&new)?;
            let mut file = Place::of(&new)?.create()?;
            let _ = reserve(&file);
            let first = line(JournalEntry::Began {
                version: VERSION,
                upgrader: env!("CARGO_PKG_VERSION").to_owned(),
                started,
                plan: Box::new(plan.clone()),
                boot: reboot::boot_id(),
            });
            file.write_all(&first)?;
            file.sync_all()?;
            files::rename(&new, &path)?;
            Ok((file, first.len() as u64))
        };
        let (file, whole) = explained(&path, begin())?;
        Ok(Self { file, whole, path, last })
    }

    /// The journal of an interrupted run, and that run. None if there is none.
    ///
    /// # Errors
    /// If a line other than the last is damaged, or if a newer upgrader has written it in another form.
    pub(crate) fn open(paths: &Paths) -> Result<Option<(Self, PastRun)>> {
        let path = paths.journal();
        let Some((past, whole)) = parse(&path)? else { return Ok(None) };
        let open = || -> std::io::Result<File> {
            let file = files::append(&path, 0o600)?;
            file.set_len(whole)?;
            // That has freed the reserved space.
            let _ = reserve(&file);
            Ok(file)
        };
        let file = explained(&path, open())?;
        Ok(Some((Self { file, whole, path, last: paths.last_journal() }, past)))
    }

    /// The journal of the interrupted run, or else of the last completed one, which is open again then.
    pub(crate) fn reopen(paths: &Paths) -> Result<Option<Self>> {
        let (path, last) = (paths.journal(), paths.last_journal());
        if !files::exists(&path) && files::exists(&last) {
            explained(&path, files::rename(&last, &path))?;
        }
        Ok(Self::open(paths)?.map(|(journal, _)| journal))
    }

    /// The interrupted run. None if there is none.
    pub(crate) fn read(paths: &Paths) -> Result<Option<PastRun>> {
        Ok(parse(&paths.journal())?.map(|(past, _)| past))
    }

    /// The last completed run.
    pub(crate) fn read_last(paths: &Paths) -> Result<Option<PastRun>> {
        Ok(parse(&paths.last_journal())?.map(|(past, _)| past))
    }

    /// Writes an entry and waits until it is on the disk. After an error the caller must not do what the entry announces.
    pub(crate) fn write(&mut self, entry: JournalEntry) -> Result<()> {
        let line = line(entry);
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.whole = self.whole.saturating_add(line.len() as u64),
            // The disk may be full. An incomplete line is damage once another follows it.
            Err(_) => self.truncate(),
        }
        explained(&self.path, written)
    }

    /// The same for an entry of a rollback, which frees space and so does without it on a full disk.
    pub(crate) fn write_if_space(&mut self, entry: JournalEntry) -> Result<()> {
        let is_full = |error: &anyhow::Error| {
            let kind = error.downcast_ref::<std::io::Error>().and_then(Errno::from_io_error);
            matches!(kind, Some(Errno::NOSPC | Errno::DQUOT))
        };
        match self.write(entry) {
            Err(error) if is_full(&error) => Ok(()),
            written => written,
        }
    }

    /// Removes an incomplete line.
    fn truncate(&mut self) {
        // If that fails, the next write fails, too.
        let _ = self.file.set_len(self.whole).and_then(|()| self.file.seek(SeekFrom::Start(self.whole)));
        let _ = reserve(&self.file);
    }

    /// Removes the journal of a run that has changed nothing. That of the last completed run stays.
    pub(crate) fn forget(self) -> Result<()> {
        explained(&self.path, remove_file(&self.path).and_then(|()| Place::of(&self.path)?.sync_directory()))
    }

    /// Closes the journal of a completed run. It is kept until the next run ends.
    pub(crate) fn close(self) -> Result<()> {
        explained(&self.path, files::rename(&self.path, &self.last))
    }
}

/// The run that can be rolled back: the interrupted one if its rollback data is saved, else the last one that ended. None if there is
/// no rollback data.
pub(crate) fn revertible(paths: &Paths) -> Result<Option<PastRun>> {
    let past = match Journal::read(paths)? {
        Some(past) => Some(past),
        // A completed rollback cannot be rolled back; its data is still there if it was killed at the very end.
        None => Journal::read_last(paths)?.filter(|past| past.rolling_back.is_none()),
    };
    // Rollback data beside a run that saved none belongs to an earlier upgrade.
    let past = past.filter(|past| past.has_ended(Step::SaveRollbackData));
    Ok(past.zip(rollback::open(paths)?).map(|(past, _)| past))
}

/// True if there is a run to roll back. Damaged rollback data counts as none, and does not keep a run from being completed.
pub(crate) fn is_revertible(paths: &Paths) -> bool {
    revertible(paths).is_ok_and(|past| past.is_some())
}

/// Discards the rollback data of the last run once it is this many days old. That of an interrupted run stays.
pub(crate) fn discard_expired(paths: &Paths, days: u16) -> Result<()> {
    if files::exists(paths.journal()) {
        return Ok(());
    }
    let age = SignedDuration::from_hours(24 * i64::from(days));
    let Some(past) = Journal::read_last(paths)? else { return Ok(()) };
    if past.last + age < Timestamp::now() { rollback::discard(paths) } else { Ok(()) }
}

/// Reserves space for later entries. Not every filesystem supports that.
fn reserve(file: &File) -> rustix::io::Result<()> {
    fallocate(file, FallocateFlags::KEEP_SIZE, 0, RESERVED)
}

fn explained<T>(path: &Path, result: std::io::Result<T>) -> Result<T> {
    result.with_context(|| path.display().to_string()).explain(|| {
        Failure::new("the journal of the run cannot be written")
            .remedy("Check that filesystem (`df`, `df -i`, `dmesg`), then start again.")
    })
}

fn line(entry: JournalEntry) -> Vec<u8> {
    // Never fails: times and text can be written as JSON.
    let json = serde_json::to_string(&Line { time: Timestamp::now(), entry }).unwrap_or_default();
    format!("{} {json}\n", sum(json.as_bytes())).into_bytes()
}

fn sum(bytes: &[u8]) -> String {
    let mut digest = format!("{:x}", Sha256::digest(bytes));
    digest.truncate(SUM);
    digest
}

/// The JSON of a line, if its checksum is right.
fn content(line: &[u8]) -> Option<&[u8]> {
    let (given, json) = line.strip_suffix(b"\n")?.split_at_checked(SUM)?;
    let json = json.strip_prefix(b" ")?;
    (given == sum(json).as_bytes()).then_some(json)
}

/// Reads a journal: the run, and the length of its complete lines. None if there is no file.
fn parse(path: &Path) -> Result<Option<(PastRun, u64)>> {
    let text = match files::content(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| path.display().to_string())?,
    };
    let damaged = |number: usize, what: &str| {
        let shown = path.display();
        anyhow::Error::new(Failure::new(format!("{shown}:{number}: {what}: the last step of the interrupted run is not known")).remedy(format!(
            "Check the disk (`dmesg`) and the log. `rm {shown}` discards that run: the next one begins with the machine as it is."
        )))
    };
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let (mut past, mut whole) = (None::<PastRun>, 0_u64);
    for (index, line) in lines.iter().enumerate() {
        let Some(json) = content(line) else {
            if index + 1 == lines.len() && past.is_some() {
                break;
            }
            return Err(damaged(index + 1, "this line is damaged"));
        };
        whole = whole.saturating_add(line.len() as u64);
        let known: Option<Line> = serde_json::from_slice(json).ok();
        match (&mut past, known) {
            (None, Some(Line { time, entry: JournalEntry::Began { version, started, plan, boot, .. } })) => {
                if version > VERSION {
                    return Err(damaged(1, "a newer upgrader has written this in an unknown form"));
                }
                past = Some(PastRun::new(started, *plan, boot, time));
            }
            (None, _) => return Err(damaged(1, "this is not the beginning of a run")),
            (Some(past), Some(Line { time, entry })) => past.note(entry, time),
            // An entry of a newer upgrader.
            (Some(_), None) => {}
        }
    }
    past.map(|past| Some((past, whole))).ok_or_else(|| damaged(1, "the file is empty"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::fs;

    use super::*;

    fn plan() -> Plan {
        Plan { installed: "1".to_owned(), candidate: "2".to_owned(), ..Plan::default() }
    }

    /// A journal of a run that stopped in its second hook.
    fn written(paths: &Paths) -> Journal {
        let mut journal = Journal::begin(paths, Timestamp::UNIX_EPOCH, &plan()).expect("writable");
        for entry in [
            JournalEntry::StepBegan(Step::SaveRollbackData),
            JournalEntry::StepEnded(Step::SaveRollbackData),
            JournalEntry::StepBegan(Step::PreUpgradeHooks),
            JournalEntry::HookBegan(Phase::PreUpgrade, "/a/10".into()),
            JournalEntry::HookEnded(Phase::PreUpgrade, "/a/10".into(), HookOutcome::Done),
            JournalEntry::HookBegan(Phase::PreUpgrade, "/a/20".into()),
        ] {
            journal.write(entry).expect("writable");
        }
        journal
    }

    #[test]
    fn the_next_process_reads_the_steps_of_the_run() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        assert!(Journal::read(&paths).expect("none").is_none());
        drop(written(&paths));
        let (journal, past) = Journal::open(&paths).expect("readable").expect("there");
        assert_eq!((past.plan.candidate.as_str(), past.step()), ("2", Some(Step::PreUpgradeHooks)));
        assert!(past.has_ended(Step::SaveRollbackData) && !past.has_ended(Step::PreUpgradeHooks));
        assert!(
            past.has_run(Phase::PreUpgrade, Path::new("/a/10")) && !past.has_run(Phase::PreUpgrade, Path::new("/a/20"))
        );
        assert_eq!(past.hook(), Some(Path::new("/a/20")));
        journal.close().expect("renamed");
        assert!(Journal::read(&paths).expect("none").is_none());
        assert!(Journal::read_last(&paths).expect("readable").is_some());
    }

    #[test]
    fn a_power_cut_while_packages_change_is_recognized() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        let mut journal = written(&paths);
        let past = |paths: &Paths| Journal::read(paths).expect("readable").expect("a run");
        assert!(!past(&paths).lost_power_in_packages("another boot"), "it was in a hook");
        journal.write(JournalEntry::StepBegan(Step::Packages)).expect("writable");
        assert!(past(&paths).lost_power_in_packages("another boot"));
        assert!(!past(&paths).lost_power_in_packages(&reboot::boot_id()), "it was only killed");
        journal.write(JournalEntry::RollingBackPackages).expect("writable");
        assert!(past(&paths).lost_power_in_packages("another boot"), "it is not restored yet");
        journal.write(JournalEntry::PackagesRolledBack).expect("writable");
        let rolled_back = past(&paths);
        assert!(!rolled_back.lost_power_in_packages("another boot"));
        assert!(rolled_back.has_ended(Step::SaveRollbackData));
        assert!(!rolled_back.has_run(Phase::PreUpgrade, Path::new("/a/10")), "what the hook did is rolled back");
        assert!(rolled_back.has_changed_something() && rolled_back.restored == 1);
        journal.write(JournalEntry::StepBegan(Step::Packages)).expect("writable");
        journal.write(JournalEntry::StepEnded(Step::Packages)).expect("writable");
        assert!(!past(&paths).lost_power_in_packages("another boot"), "what has ended is on the disk");
    }

    #[test]
    fn an_incomplete_last_line_is_ignored() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        drop(written(&paths));
        let text = fs::read(paths.journal()).expect("there");
        let last = text[..text.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("several lines") + 1;
        for end in last..text.len() {
            fs::write(paths.journal(), &text[..end]).expect("written");
            let (mut journal, past) = Journal::open(&paths).expect("readable").expect("there");
            assert_eq!(past.hook(), None, "cut at {end}");
            journal.write(JournalEntry::HookBegan(Phase::PreUpgrade, "/a/30".into())).expect("writable");
            let past = Journal::read(&paths).expect("nothing is mixed up").expect("there");
            assert_eq!(past.hook(), Some(Path::new("/a/30")));
        }
        // Blocks of zeros, where the size came to the disk before the content.
        fs::write(paths.journal(), [&text[..last], &[0; 100], b"\n"].concat()).expect("written");
        assert_eq!(Journal::read(&paths).expect("readable").expect("there").hook(), None);
    }

    #[test]
    fn after_an_incomplete_line_on_a_full_disk_the_next_entry_is_read() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        let begun = written(&paths);
        let resumed = |_| Journal::open(&paths).expect("readable").expect("there").0;
        let mut next = None;
        for mut journal in std::iter::once(begun).chain((0..1).map(resumed)) {
            journal.file.write_all(b"half a li").expect("writable");
            journal.truncate();
            journal.write(JournalEntry::HookBegan(Phase::PreUpgrade, "/a/30".into())).expect("writable");
            next = Journal::read(&paths).expect("nothing is mixed up");
        }
        assert_eq!(next.expect("there").hook(), Some(Path::new("/a/30")));
    }

    #[test]
    fn a_rollback_does_without_its_entry_on_a_full_disk_only() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        let mut journal = written(&paths);
        let rolling_back = || JournalEntry::RollingBack("a reason".to_owned());
        let open = |path: &str| File::options().read(true).write(path == "/dev/full").open(path).expect("there");
        journal.file = open("/dev/full");
        assert!(journal.write(rolling_back()).is_err() && journal.write_if_space(rolling_back()).is_ok());
        journal.file = open("/dev/null");
        assert!(journal.write_if_space(rolling_back()).is_err(), "it is not open for writing");
    }

    #[test]
    fn damage_in_another_line_is_reported_with_its_number() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        drop(written(&paths));
        let text = fs::read(paths.journal()).expect("there");
        let ends: Vec<usize> = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
        for (index, end) in ends[..ends.len() - 1].iter().enumerate() {
            let mut damaged = text.clone();
            damaged[end - 3] ^= 1;
            fs::write(paths.journal(), damaged).expect("written");
            let error = Journal::read(&paths).expect_err("damaged").to_string();
            assert!(error.contains(&format!("/journal:{}: this line is damaged", index + 1)), "{error}");
        }
        fs::write(paths.journal(), "").expect("written");
        assert!(
            Journal::read(&paths).expect_err("empty").to_string().contains("/journal:1: "),
            "an empty file is no journal"
        );
    }

    #[test]
    fn unknown_entries_are_skipped_and_a_newer_form_is_refused() {
        let (_root, paths) = Paths::of_test_machine(&[]);
        let mut journal = written(&paths);
        for json in [r#"{"time":"2026-11-22T10:00:00Z","teleported":{"to":"mars"}}"#, r#"{"mood":"good"}"#] {
            let text = format!("{} {json}\n", sum(json.as_bytes()));
            journal.file.write_all(text.as_bytes()).expect("writable");
        }
        let past = Journal::read(&paths).expect("readable").expect("there");
        assert_eq!(past.hook(), Some(Path::new("/a/20")));
        let entry = JournalEntry::Began {
            version: VERSION + 1,
            upgrader: "99".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            plan: Box::new(plan()),
            boot: String::new(),
        };
        fs::write(paths.journal(), line(entry)).expect("written");
        let error = Journal::open(&paths).expect_err("too new").to_string();
        assert!(error.contains("a newer upgrader has written this"), "{error}");
    }

    proptest! {
        #[test]
        fn no_content_of_a_journal_causes_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..2000_usize) {
            let (_root, paths) = Paths::of_test_machine(&[]);
            drop(written(&paths));
            let mut text = fs::read(paths.journal()).expect("there");
            text.truncate(at);
            text.extend(bytes);
            fs::write(paths.journal(), text).expect("written");
            let _ = Journal::open(&paths);
        }
    }
}
