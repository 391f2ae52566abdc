//! Debian machines in containers, with a product installed and a repository of their own.

pub mod backing_file;
pub mod database;
pub mod disk;
pub mod engine;
pub mod exchange;
pub mod fleet;
pub mod image;
pub mod isolation;
pub mod lab;
pub mod link;
pub mod lintian;
pub mod machine;
pub mod product_machine;
pub mod terminal;
pub mod transcript;
pub mod world;
pub mod write_record;
