//! The runtime that asynchronous libraries (the engine's client, the repository's server) run on.

use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};

/// Alive until the process ends.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads can be started")
});

/// Runs a future to its end.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}
