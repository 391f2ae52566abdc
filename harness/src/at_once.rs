//! Shares work among threads and processes.

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Mutex, mpsc};
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Does two pieces of work at once, the first on a thread of its own.
pub fn both<A: Send, B>(
    one: impl FnOnce() -> Result<A> + Send,
    other: impl FnOnce() -> Result<B>,
) -> (Result<A>, Result<B>) {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (joined(one), other)
    })
}

/// Works on all items at once, each on a thread of its own, and returns the results in the order of the items.
pub fn all<T: Send, R: Send>(
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        threads.into_iter().map(joined).collect()
    })
}

fn joined<R>(thread: ScopedJoinHandle<'_, Result<R>>) -> Result<R> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Works on items on so many threads, and passes on each result and how many seconds it took as soon as it is there. The first error of
/// `receive` ends all.
pub(crate) fn each<T: Send, R: Send>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
    mut receive: impl FnMut(T, R, u64) -> Result<()>,
) -> Result<()> {
    let queue = Mutex::new(items.into_iter());
    let next = || queue.lock().ok()?.next();
    thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for _ in 0..threads {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while let Some(item) = next() {
                    let begin = Instant::now();
                    let result = work(&item);
                    if sender.send((item, result, begin.elapsed().as_secs())).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        results.into_iter().try_for_each(|(item, result, seconds)| receive(item, result, seconds))
    })
}

/// The value that is saved in a JSON file. If there is none it is made; other threads and processes that need it wait meanwhile.
pub(crate) fn cached<T: Serialize + DeserializeOwned>(path: &Path, make: impl FnOnce() -> Result<T>) -> Result<T> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let lock = File::create(path.with_extension("lock"))?;
    lock.lock()?;
    if path.exists() {
        return serde_json::from_slice(&fs::read(path)?).with_context(|| path.display().to_string());
    }
    let (value, new) = (make()?, path.with_extension("new"));
    fs::write(&new, serde_json::to_vec(&value)?)?;
    fs::rename(&new, path)?;
    Ok(value)
}
