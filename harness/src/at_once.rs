//! Two pieces of work at once.

use std::thread;

use anyhow::{Result, anyhow};

/// Does two pieces of work at once, the first on a thread of its own.
pub(crate) fn both<A: Send, B>(
    one: impl FnOnce() -> Result<A> + Send,
    other: impl FnOnce() -> Result<B>,
) -> (Result<A>, Result<B>) {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (one.join().map_err(|_| anyhow!("a thread panicked")).flatten(), other)
    })
}
