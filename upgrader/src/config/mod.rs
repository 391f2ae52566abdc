//! The files that the vendor and the admin write: product.toml and config.toml.

pub mod product;
pub mod settings;
pub mod strict;
