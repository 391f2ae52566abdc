//! What is found out before the question, and changes nothing.

pub mod pair;
pub mod preflight;
pub mod validated;
