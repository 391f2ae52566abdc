//! Packages, releases and repositories, made from data.

pub mod binaries;
pub mod deb;
pub mod key;
pub mod manual;
pub mod package;
pub mod release;
pub mod repository;
pub mod repository_fault;
pub mod server;
pub mod service;
pub mod shipped;
