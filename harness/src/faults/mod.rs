//! Faults that are injected into a run.

pub mod attack;
pub mod crash;
pub mod failing_disk;
pub mod fault;
pub mod power;
pub(crate) mod trigger;
