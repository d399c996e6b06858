//! The Engine API from the caller's side.
