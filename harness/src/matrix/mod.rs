//! The matrix: every old release, every Debian, every mishap.

pub mod answer;
pub(crate) mod before;
pub mod catalogue;
pub mod cell;
pub mod check;
pub(crate) mod course;
mod database;
pub mod defect;
pub mod expectation;
pub mod explore;
pub mod fault;
mod outlived;
pub mod own;
mod point;
pub mod portrait;
pub mod record;
pub mod run;
pub mod scenario;
mod shown;
pub mod state;
pub(crate) mod timeline;
