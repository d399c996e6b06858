//! The handlers, by what they act on.

pub(crate) mod containers;
pub(crate) mod debug;
pub(crate) mod events;
pub(crate) mod execs;
pub(crate) mod explain;
pub(crate) mod files;
pub(crate) mod filter;
pub(crate) mod fsck;
pub(crate) mod images;
pub(crate) mod live;
pub(crate) mod networks;
pub(crate) mod platform;
pub(crate) mod registry;
pub(crate) mod streams;
pub(crate) mod system;
pub(crate) mod usage;
pub(crate) mod websocket;
pub(crate) mod why;
