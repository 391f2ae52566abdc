//! The steps of a run, from the first check to the last restart, and what follows a failure.

pub mod journal;
mod planner;
pub mod refresh;
pub mod restart;
pub mod run;
pub mod self_update;
pub mod status;
pub mod steps;
pub mod worker;
