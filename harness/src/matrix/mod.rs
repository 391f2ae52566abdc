//! The matrix: every old release, every Debian, every state and every fault, in cells that upgrade a machine each.

pub mod answer;
pub(crate) mod baseline;
pub mod catalogue;
pub mod cell;
pub mod check;
mod database;
pub mod defect;
pub mod explore;
mod installed;
pub mod record;
pub mod run;
pub(crate) mod run_trace;
pub mod scenario;
mod shown;
pub mod state;
pub(crate) mod upgrade;
