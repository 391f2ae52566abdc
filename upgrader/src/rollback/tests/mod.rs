mod hostile;
pub(super) mod interruption;
mod machine;
mod rollback;
mod stores;
