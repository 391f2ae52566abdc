//! Faults that are injected into a run.

pub mod crash;
