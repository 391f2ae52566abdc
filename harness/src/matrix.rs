/// What the person does who is asked.
pub mod answer;
/// A machine before it is upgraded, where it is expected to be the same afterwards.
pub(crate) mod before;
/// Whether what vendors do wrong is caught.
pub mod catalogue;
/// One upgrade of the matrix.
pub mod cell;
/// What is looked at on a machine that was upgraded.
pub mod check;
/// How a run goes with nothing in its way.
pub(crate) mod course;
/// What is looked at in a database.
mod database;
/// What vendors do wrong: the files in `defects/`.
pub mod defect;
/// What is expected of a run.
pub mod expectation;
/// What a person does with the matrix.
pub mod explore;
/// What goes wrong: the files in `faults/`.
pub mod fault;
/// Which processes outlived the last restart of their service.
mod outlived;
/// What belongs to a machine and not to a release.
pub mod own;
/// Where something can strike in the middle of a step.
mod point;
/// What two machines with the same release have in common.
pub mod portrait;
/// What is known of a cell after it ran.
pub mod record;
/// How a cell runs.
pub mod run;
/// Which cells there are: the files in `scenarios/`.
pub mod scenario;
/// What of a screen is the same each time.
mod shown;
/// The states of machines: the files in `states/`.
pub mod state;
/// What happened when.
pub(crate) mod timeline;
