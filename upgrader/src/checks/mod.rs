//! The checks that run before the question. They change nothing.

pub mod pair;
pub mod preflight;
pub mod validated;
