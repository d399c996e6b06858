//! The handlers, by what they act on.

pub(crate) mod containers;
pub(crate) mod execs;
pub(crate) mod files;
pub(crate) mod filter;
pub(crate) mod images;
pub(crate) mod streams;
pub(crate) mod system;
