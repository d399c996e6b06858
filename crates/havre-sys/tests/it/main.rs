//! Links and packet filters in network namespaces that exist only for the test; the machine's own is never touched.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

mod links;
mod world;
