//! What a run has done and is about to do, on the disk before it goes on.

use std::fs::{self, File};
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::exit::{Exit, Explain as _, Failure};
use crate::model::hook::{HookOutcome, Phase};
use crate::model::plan::Plan;
use crate::model::step::Step;
use crate::paths::Paths;
use crate::rollback;
use crate::system::reboot;

mod past;

pub(crate) use past::PastRun;

/// The version of the journal's form. It grows when an upgrader of today could not go on with what is written then.
pub(crate) const VERSION: u32 = 1;

/// Space that is set aside for the journal, in bytes: a disk that fills up meanwhile must not keep a run from being undone.
const RESERVED: u64 = 256 * 1024;

/// How many characters of a line are its sum: the beginning of the SHA-256 of the rest, in hex.
const SUM: usize = 16;

/// Something that a run writes down before it goes on. No journal, no step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(crate) enum JournalEntry {
    /// The run begins. The first entry, and only the first.
    Began {
        /// [`VERSION`].
        version: u32,
        /// The version of the upgrader.
        upgrader: String,
        /// When the run started: the name of its report in the history.
        started: Timestamp,
        /// What it is going to do.
        plan: Box<Plan>,
        /// The boot of the machine in which it began: /proc/sys/kernel/random/boot_id.
        #[serde(default)]
        boot: String,
    },
    /// Another process takes the run up again, by this plan.
    Resumed {
        /// What it is going to do: what is left of the first plan, or another one that somebody agreed to since.
        plan: Box<Plan>,
        /// True if nobody was there: the machine booted.
        at_boot: bool,
        /// The boot of the machine in which it was resumed.
        #[serde(default)]
        boot: String,
    },
    /// The machine lost its power while packages changed: what they had changed is rolled back, and the packages are upgraded again.
    PackagesRolledBack,
    /// A step is about to begin.
    StepBegan(Step),
    /// A step ended without failing.
    StepEnded(Step),
    /// A hook is about to run.
    HookBegan(Phase, PathBuf),
    /// A hook ran.
    HookEnded(Phase, PathBuf, HookOutcome),
    /// What can be gone back to is kept; these units are active.
    Active(Vec<String>),
    /// The first migration of the database is about to begin; as it was before, it is saved here.
    Migrating(PathBuf),
    /// A step failed, and is to be undone, for this reason.
    RollingBack(String),
    /// The run ended with this exit code, but the machine is not what it should be: the next run goes on.
    Stopped(Exit),
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// When it was written.
    time: Timestamp,
    #[serde(flatten)]
    entry: JournalEntry,
}

/// The journal of a run: what it has done and is about to do, each line on the disk before the run goes on. It is there as
/// long as the machine is between two versions.
///
/// Lines of JSON behind their sums. Entries that are not known are passed over: a newer upgrader may have written them. A last line
/// that is not whole is what a power cut leaves, and as good as not written.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    /// How many bytes of it are whole lines.
    whole: u64,
    path: PathBuf,
    last: PathBuf,
}

impl Journal {
    /// Begins a journal.
    pub(crate) fn begin(paths: &Paths, started: Timestamp, plan: &Plan) -> Result<Self> {
        let (path, last) = (paths.journal(), paths.last_journal());
        let new = path.with_extension("new");
        let begin = || -> std::io::Result<(File, u64)> {
            fs::create_dir_all(paths.state())?;
            // Reasons are quoted from what programs printed, which may be private.
            let mut file = File::options().create(true).write(true).truncate(true).mode(0o640).open(&new)?;
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
            fs::rename(&new, &path)?;
            File::open(paths.state())?.sync_all()?;
            Ok((file, first.len() as u64))
        };
        let (file, whole) = begin().with_context(|| path.display().to_string()).explain(cannot_write)?;
        Ok(Self { file, whole, path, last })
    }

    /// The journal of a run that did not come to its end, and what it tells. None if there is none.
    ///
    /// # Errors
    /// If it is damaged anywhere but at its end, or of a form that only a newer upgrader understands.
    pub(crate) fn open(paths: &Paths) -> Result<Option<(Self, PastRun)>> {
        let path = paths.journal();
        let Some((past, whole)) = look(&path)? else { return Ok(None) };
        let open = || -> std::io::Result<File> {
            let file = File::options().append(true).open(&path)?;
            file.set_len(whole)?;
            // What was reserved behind its end is gone with that.
            let _ = reserve(&file);
            Ok(file)
        };
        let file = open().with_context(|| path.display().to_string()).explain(cannot_write)?;
        Ok(Some((Self { file, whole, path, last: paths.last_journal() }, past)))
    }

    /// The journal of the run that did not come to its end, or else of the last that did: it is open again.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn reopen(paths: &Paths) -> Result<Option<Self>> {
        let (path, last) = (paths.journal(), paths.last_journal());
        if !path.exists() && last.exists() {
            let reopen = || fs::rename(&last, &path).and_then(|()| File::open(paths.state())?.sync_all());
            reopen().with_context(|| path.display().to_string()).explain(cannot_write)?;
        }
        Ok(Self::open(paths)?.map(|(journal, _)| journal))
    }

    /// What the journal of a run that did not come to its end tells. None if there is none.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn read(paths: &Paths) -> Result<Option<PastRun>> {
        Ok(look(&paths.journal())?.map(|(past, _)| past))
    }

    /// What the journal of the last run that came to its end tells.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn read_last(paths: &Paths) -> Result<Option<PastRun>> {
        Ok(look(&paths.last_journal())?.map(|(past, _)| past))
    }

    /// Writes an entry, and comes back when it is on the disk.
    ///
    /// # Errors
    /// If it is not: then whatever it announces must not be done.
    pub(crate) fn write(&mut self, entry: JournalEntry) -> Result<()> {
        let line = line(entry);
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.whole = self.whole.saturating_add(line.len() as u64),
            // The disk may be full. Half a line is a damaged one as soon as another is behind it.
            Err(_) => self.take_back(),
        }
        written.with_context(|| self.path.display().to_string()).explain(cannot_write)
    }

    /// Takes back what was written of a line.
    fn take_back(&mut self) {
        // If that fails, what is written next fails, too.
        let _ = self.file.set_len(self.whole).and_then(|()| self.file.seek(SeekFrom::Start(self.whole)));
        let _ = reserve(&self.file);
    }

    /// The run has changed nothing, and is as good as never begun. What the one before it tells is kept.
    pub(crate) fn forget(self) -> Result<()> {
        let forget = || -> std::io::Result<()> {
            fs::remove_file(&self.path)?;
            self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
        };
        forget().with_context(|| self.path.display().to_string()).explain(cannot_write)
    }

    /// The machine is between two versions no more. What the journal tells is kept until the next run ends.
    pub(crate) fn close(self) -> Result<()> {
        let close = || -> std::io::Result<()> {
            fs::rename(&self.path, &self.last)?;
            self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
        };
        close().with_context(|| self.path.display().to_string()).explain(cannot_write)
    }
}

/// The run that can be rolled back: the interrupted one if its rollback data is saved, else the last one that ended. None if there is
/// no rollback data.
pub(crate) fn revertible(paths: &Paths) -> Result<Option<PastRun>> {
    let past = match Journal::read(paths)? {
        Some(past) => Some(past),
        // After a rollback there is nothing left to undo; its data may still be there if it was killed at the very end.
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
    if paths.journal().exists() {
        return Ok(());
    }
    let age = SignedDuration::from_hours(24 * i64::from(days));
    let Some(past) = Journal::read_last(paths)? else { return Ok(()) };
    if past.last + age < Timestamp::now() { rollback::discard(paths) } else { Ok(()) }
}

/// Takes the space that a run may need: what a full disk must not keep it from writing. Not every filesystem can.
fn reserve(file: &File) -> rustix::io::Result<()> {
    fallocate(file, FallocateFlags::KEEP_SIZE, 0, RESERVED)
}

fn cannot_write() -> Failure {
    Failure::new("what the run does cannot be written down, and nothing is done that is not")
        .remedy("See to that filesystem (`df`, `df -i`, `dmesg`), then start again.")
}

/// An entry as it lies in the file.
fn line(entry: JournalEntry) -> Vec<u8> {
    // Times and names that are text: nothing here cannot be written as JSON.
    let json = serde_json::to_string(&Line { time: Timestamp::now(), entry }).unwrap_or_default();
    format!("{} {json}\n", sum(json.as_bytes())).into_bytes()
}

fn sum(bytes: &[u8]) -> String {
    let mut digest = format!("{:x}", Sha256::digest(bytes));
    digest.truncate(SUM);
    digest
}

/// What is written in a line, if it is whole.
fn content(line: &[u8]) -> Option<&[u8]> {
    let (given, json) = line.strip_suffix(b"\n")?.split_at_checked(SUM)?;
    let json = json.strip_prefix(b" ")?;
    (given == sum(json).as_bytes()).then_some(json)
}

/// What a journal tells, and how many bytes of it are whole. None if there is none.
fn look(path: &Path) -> Result<Option<(PastRun, u64)>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| path.display().to_string())?,
    };
    let damaged = |number: usize, what: &str| {
        let shown = path.display();
        anyhow::Error::new(Failure::new(format!("{shown}:{number}: {what}: how far the last run came is not known")).remedy(format!(
            "See to the disk (`dmesg`) and to the log. `rm {shown}` forgets that run: the next one goes on from what it finds."
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
                    return Err(damaged(1, "a newer upgrader has written this, in a form that is not known here"));
                }
                past = Some(PastRun::new(started, *plan, boot, time));
            }
            (None, _) => return Err(damaged(1, "this is not the beginning of a run")),
            (Some(past), Some(Line { time, entry })) => past.note(entry, time),
            // What a newer upgrader does.
            (Some(_), None) => {}
        }
    }
    past.map(|past| Some((past, whole))).ok_or_else(|| damaged(1, "there is nothing in it"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn machine() -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::of_program(Path::new("acme-upgrade")).expect("a good name").below(root.path());
        (root, paths)
    }

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
    fn the_next_process_knows_how_far_the_run_came() {
        let (_root, paths) = machine();
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
    fn of_packages_that_lost_their_power_nothing_is_trusted() {
        let (_root, paths) = machine();
        let mut journal = written(&paths);
        let past = |paths: &Paths| Journal::read(paths).expect("readable").expect("a run");
        assert!(!past(&paths).lost_power_in_packages("another boot"), "it was in a hook");
        journal.write(JournalEntry::StepBegan(Step::Packages)).expect("writable");
        assert!(past(&paths).lost_power_in_packages("another boot"));
        assert!(!past(&paths).lost_power_in_packages(&reboot::boot_id()), "it was only killed");
        journal.write(JournalEntry::PackagesRolledBack).expect("writable");
        let rolled_back = past(&paths);
        assert!(!rolled_back.lost_power_in_packages("another boot"));
        assert!(!rolled_back.has_begun(Step::Packages) && rolled_back.has_begun(Step::PreUpgradeHooks));
        journal.write(JournalEntry::StepBegan(Step::Packages)).expect("writable");
        journal.write(JournalEntry::StepEnded(Step::Packages)).expect("writable");
        assert!(!past(&paths).lost_power_in_packages("another boot"), "what has ended is on the disk");
    }

    #[test]
    fn a_line_that_a_power_cut_tore_is_as_good_as_not_written_wherever_it_tore() {
        let (_root, paths) = machine();
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
    fn half_a_line_that_a_full_disk_left_is_in_the_way_of_nothing() {
        let (_root, paths) = machine();
        let begun = written(&paths);
        let taken_up = |_| Journal::open(&paths).expect("readable").expect("there").0;
        let mut next = None;
        for mut journal in std::iter::once(begun).chain((0..1).map(taken_up)) {
            journal.file.write_all(b"half a li").expect("writable");
            journal.take_back();
            journal.write(JournalEntry::HookBegan(Phase::PreUpgrade, "/a/30".into())).expect("writable");
            next = Journal::read(&paths).expect("nothing is mixed up");
        }
        assert_eq!(next.expect("there").hook(), Some(Path::new("/a/30")));
    }

    #[test]
    fn damage_anywhere_else_is_said_with_its_line() {
        let (_root, paths) = machine();
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
    fn what_a_newer_upgrader_does_is_passed_over_and_what_it_does_in_another_form_is_not_touched() {
        let (_root, paths) = machine();
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
        fn no_journal_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..2000_usize) {
            let (_root, paths) = machine();
            drop(written(&paths));
            let mut text = fs::read(paths.journal()).expect("there");
            text.truncate(at);
            text.extend(bytes);
            fs::write(paths.journal(), text).expect("written");
            let _ = Journal::open(&paths);
        }
    }
}
