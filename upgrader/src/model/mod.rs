//! Values that the other layers pass on: the plan, the steps, the events. They know nothing of the machine.

pub mod event;
pub mod plan;
pub mod size;
pub mod step;
