//! The store as its users see it.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests fail and speak as tests do")]

mod db;
mod erofs;
mod layers;
