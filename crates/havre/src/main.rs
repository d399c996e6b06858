//! The one binary of Havre. It chooses a role before any thread exists, because namespaces are
//! entered from a single thread.
fn main() {}
