//! The steps of a run, from the first check to the last restart, and what follows a failure.

mod journal;
mod planner;
pub mod refresh;
mod restart;
pub mod run;
mod self_update;
pub(crate) mod status;
mod steps;
mod worker;
