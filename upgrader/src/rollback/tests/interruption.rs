//! Tests of interrupted rollbacks.

use std::cell::Cell;

thread_local! {
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Fails after the number of changes that was set, and always after that, as if the process was killed.
pub(in crate::rollback) fn interrupt_if_due() -> anyhow::Result<()> {
    let left = LEFT.get();
    anyhow::ensure!(left != Some(0), "interrupted");
    LEFT.set(left.map(|left| left - 1));
    Ok(())
}

/// Does something that is interrupted after this many changes to the machine.
pub(super) fn after<T>(changes: u32, work: impl FnOnce() -> T) -> T {
    LEFT.set(Some(changes));
    let done = work();
    LEFT.set(None);
    done
}
