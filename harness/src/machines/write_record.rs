//! The writes and flushes of a disk in their order, and what is on the disk if its power is cut after one of them.
//!
//! A disk may have any of the writes since the last flush, and has all earlier ones.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::fs::{FallocateFlags, fallocate};

/// What a disk writes at once or not at all, in bytes.
pub(super) const BLOCK: u32 = 4096;

/// What share of the writes since the last flush is lost; one of these is chosen for each power cut.
const SHARES: [f64; 3] = [0.1, 0.5, 0.9];

/// How often a lost write is one of which some blocks were written.
const TORN: f64 = 0.25;

/// What a disk was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// To write or to discard a range.
    Write(Write),
    /// To put everything that was written before on the medium.
    Flush,
}

/// A range of the disk, and what it has from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// Where it begins on the disk, in bytes.
    offset: u64,
    length: u64,
    /// Where its data begin in the log. `None` if the range was discarded: it is zero from now on.
    logged_at: Option<u64>,
}

/// The writes and flushes of a disk from one moment on.
#[derive(Debug)]
pub struct WriteRecord {
    operations: Vec<Operation>,
    /// The data of the writes.
    log: File,
    logged: u64,
}

/// What is on a disk, as a file.
pub trait DiskImage: Sized {
    /// Another image of the same.
    ///
    /// # Errors
    /// If the filesystem of the file is full.
    fn copy(&self) -> Result<Self>;

    /// The file, to be changed.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn open(&self) -> Result<File>;
}

/// A power cut: after how many operations, and what is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerCut {
    /// How many operations had been done.
    pub after: usize,
    /// Which writes since the last flush are lost.
    pub loss: Loss,
}

/// Which of the writes since the last flush are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All.
    All,
    /// Some, chosen at random. The same seed chooses the same ones of a record.
    Some {
        /// The seed.
        seed: u64,
    },
}

impl WriteRecord {
    /// An empty record. The data of writes go to an empty file.
    pub(super) fn new(log: File) -> Self {
        Self { operations: Vec::new(), log, logged: 0 }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.log.write_all_at(data, self.logged)?;
        let length = data.len() as u64;
        self.operations.push(Operation::Write(Write { offset, length, logged_at: Some(self.logged) }));
        self.logged += length;
        Ok(())
    }

    pub(super) fn discard(&mut self, offset: u64, length: u64) {
        self.operations.push(Operation::Write(Write { offset, length, logged_at: None }));
    }

    pub(super) fn flush(&mut self) {
        self.operations.push(Operation::Flush);
    }

    /// The operations in their order.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// What is on the disk after each of these power cuts, in the order of the power cuts. `before` is what it had when the record began.
    ///
    /// # Errors
    /// If the filesystem of the backing files is full.
    pub fn images<I: DiskImage>(&self, before: &I, cuts: &[PowerCut]) -> Result<Vec<I>> {
        let mut order: Vec<usize> = (0..cuts.len()).collect();
        order.sort_by_key(|index| cuts[*index].after);
        // Has everything up to the last flush before a power cut.
        let (flushed, mut applied) = (before.copy()?, 0);
        let mut images = Vec::new();
        for index in order {
            let cut = cuts[index];
            let end = cut.after.min(self.operations.len());
            let flush = last_flush(&self.operations[..end]);
            self.apply(writes(&self.operations[applied..flush]), &flushed)?;
            applied = flush;
            let image = flushed.copy()?;
            self.apply(kept(&self.operations[flush..end], cut.loss), &image)?;
            images.push((index, image));
        }
        images.sort_by_key(|(index, _)| *index);
        Ok(images.into_iter().map(|(_, image)| image).collect())
    }

    fn apply(&self, writes: impl IntoIterator<Item = Write>, image: &impl DiskImage) -> Result<()> {
        let file = image.open()?;
        let mut data = Vec::new();
        for write in writes {
            if let Some(at) = write.logged_at {
                data.resize(usize::try_from(write.length).context("a write fits into memory")?, 0);
                self.log.read_exact_at(&mut data, at)?;
                file.write_all_at(&data, write.offset)?;
            } else {
                punch_hole(&file, write.offset, write.length)?;
            }
        }
        Ok(())
    }
}

/// Makes a range of a file zero, and frees its blocks.
pub(super) fn punch_hole(file: &File, offset: u64, length: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)?)
}

/// How many operations there are up to the last flush, which is included.
fn last_flush(operations: &[Operation]) -> usize {
    operations.iter().rposition(|operation| *operation == Operation::Flush).map_or(0, |at| at + 1)
}

/// The writes among operations.
fn writes(operations: &[Operation]) -> impl Iterator<Item = Write> {
    operations.iter().filter_map(|operation| match operation {
        Operation::Write(write) => Some(*write),
        Operation::Flush => None,
    })
}

/// The writes among unflushed operations, and the blocks of writes, that are not lost.
fn kept(operations: &[Operation], loss: Loss) -> Vec<Write> {
    let Loss::Some { seed } = loss else { return Vec::new() };
    let mut random = StdRng::seed_from_u64(seed);
    let share = SHARES[random.gen_range(0..SHARES.len())];
    let mut kept = Vec::new();
    for write in writes(operations) {
        if !random.gen_bool(share) {
            kept.push(write);
        } else if random.gen_bool(TORN) {
            kept.extend(write.blocks().filter(|_| random.gen_bool(0.5)));
        }
    }
    kept
}

impl Write {
    /// Its blocks, as writes of their own.
    fn blocks(self) -> impl Iterator<Item = Self> {
        let block = u64::from(BLOCK);
        (0..self.length.div_ceil(block)).map(move |number| {
            let begin = number * block;
            Self {
                offset: self.offset + begin,
                length: block.min(self.length - begin),
                logged_at: self.logged_at.map(|at| at + begin),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: u64, length: u64) -> Operation {
        Operation::Write(Write { offset, length, logged_at: Some(offset * 2) })
    }

    #[test]
    fn everything_up_to_the_last_flush_is_on_the_disk() {
        let operations = [write(0, 1), Operation::Flush, write(1, 1), write(2, 1)];
        assert_eq!([0, 1, 2, 3, 4].map(|end| last_flush(&operations[..end])), [0, 0, 2, 2, 2]);
    }

    #[test]
    fn any_of_the_later_writes_can_be_lost() {
        let operations: Vec<Operation> = (0..4).map(|number| write(number * 4096, 4096)).collect();
        let all: Vec<Write> = writes(&operations).collect();
        assert_eq!(kept(&operations, Loss::All), []);
        let subsets: std::collections::HashSet<Vec<u64>> = (0..1000)
            .map(|seed| kept(&operations, Loss::Some { seed }).iter().map(|one| one.offset).collect())
            .collect();
        assert_eq!(subsets.len(), 16, "each subset of 4 writes");
        assert!(subsets.iter().all(|subset| subset.is_sorted()), "in their order");
        let again = |seed| kept(&operations, Loss::Some { seed });
        assert!((0..100).all(|seed| again(seed) == again(seed) && again(seed).iter().all(|one| all.contains(one))));
    }

    #[test]
    fn a_large_write_can_be_torn_between_blocks() {
        let operations = [write(8192, 3 * 4096 + 512)];
        let torn = (0..1000).map(|seed| kept(&operations, Loss::Some { seed })).find(|kept| kept.len() == 3);
        let torn = torn.expect("a write of which three blocks are kept");
        for block in torn {
            let begin = block.offset - 8192;
            assert_eq!(begin % 4096, 0);
            assert_eq!(block.length, if begin == 3 * 4096 { 512 } else { 4096 });
            assert_eq!(block.logged_at, Some(2 * 8192 + begin));
        }
    }
}
