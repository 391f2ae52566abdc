//! What is observed of a machine from outside the upgrader.

pub mod observation;
