/// What is known of a cell after it ran.
pub mod record;
