use crate::cli::Context;
use crate::exit::{Exit, Stopped};

/// `NAME-upgrade status`.
pub fn show(_context: &Context<'_>) -> Result<Exit, Stopped> {
    Ok(Exit::Done)
}
