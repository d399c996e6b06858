//! The supervisor of one container: role `shim`.
//!
//! It is the parent of the container's first process and of its execs, holds their streams, writes the
//! log, serves attached clients, and reports and records how they end.
//!
//! Invariants: single threaded, no async runtime; it needs no daemon once the container runs; when the
//! first process has ended, the log is complete before the exit is told, and the exit is recorded in
//! the state file before it is told. It ends when the container has ended and every client has all
//! output.
//!
//! Not here: restart policies and anything that outlives one run (the engine's).

mod client;
mod detach;
mod donors;
pub mod evidence;
mod external;
mod kernel_log;
pub mod protocol;
mod reactor;
mod state;
mod streams;
mod supervisor;

use std::process::ExitCode;

pub use donors::open_namespace;
pub use state::read as read_state;

/// Runs the role: the daemon's socket is standard input.
pub fn main() -> ExitCode {
    match supervisor::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&havre_base::chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// One line for the daemon's log file, which is our standard error. Nobody may be reading: ignored then.
fn say(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "havre shim {}: {text}", std::process::id()).unwrap_or(());
}
