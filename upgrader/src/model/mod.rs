//! Values that the other layers pass on: the plan, the steps, the events. They know nothing of the machine.

pub mod conffile;
pub mod event;
pub mod events;
pub mod finding;
pub mod hook;
pub mod node;
pub mod package;
pub mod plan;
pub mod policy;
pub mod report;
pub mod size;
pub mod step;
pub(crate) mod time;
pub mod validation;
pub mod version;
