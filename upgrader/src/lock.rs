use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::exit::{Exit, Failure};

/// One run at a time: held while this value lives, and gone with the process however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or fails at once with [`Exit::Busy`].
    pub fn take(path: &Path) -> Result<Self> {
        let cannot = || format!("{}: cannot be locked", path.display());
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).with_context(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let who = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
                return Err(Failure::new(format!("another run is under way{who}"))
                    .remedy("Wait until it has ended; it can be followed in its log.")
                    .exit(Exit::Busy)
                    .into());
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(cannot)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::code_of;

    #[test]
    fn a_second_run_is_told_who_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        let first = Lock::take(&path).expect("free");
        let error = Lock::take(&path).expect_err("taken");
        assert_eq!(code_of(&error, Exit::Unchanged), Exit::Busy);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        assert!(Lock::take(&path).is_ok(), "free again");
    }
}
