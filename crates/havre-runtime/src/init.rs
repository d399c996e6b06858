//! Role `init`: the first process of a container that was started with `--init`.
//!
//! It runs as `havre-init PROGRAM ARG0 ARG1...`: it starts PROGRAM, passes signals on to it, reaps whatever the
//! container leaves behind, and ends with the program's code. Invariants: it opens nothing, allocates next to
//! nothing, and is started from a sealed copy, so that what runs beside it cannot change it.

use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use havre_sys::process::{Program, Spawn};
use rustix::process::{Signal, WaitOptions};

/// The name under which the binary takes this role.
pub const NAME: &str = "havre-init";

/// Runs the role; `arguments` are those behind the name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut texts = arguments.into_iter().filter_map(|argument| CString::new(argument.into_vec()).ok());
    let Some(program) = texts.next() else { return ExitCode::from(125) };
    let arguments: Vec<CString> = texts.collect();
    match mind(&program, &arguments) {
        Ok(code) => ExitCode::from(code),
        Err(_) => ExitCode::from(125),
    }
}

fn mind(program: &CString, arguments: &[CString]) -> std::io::Result<u8> {
    let environment: Vec<CString> = std::env::vars_os()
        .filter_map(|(name, value)| {
            let mut text = name.into_vec();
            text.push(b'=');
            text.extend(value.into_vec());
            CString::new(text).ok()
        })
        .collect();
    // Blocked from before the child exists, so that none is lost.
    havre_sys::signal::block_all()?;
    let child = havre_sys::process::spawn(&Spawn::default(), || {
        // The program is in front, in a group of its own, as if nobody stood above it.
        let _not_leader = rustix::process::setpgid(None, None);
        if rustix::termios::isatty(rustix::stdio::stdin()) {
            let _no_terminal = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
        }
        if havre_sys::signal::reset_all().is_err() {
            havre_sys::process::exit_now(126);
        }
        let error = havre_sys::process::execute(Program::Path(program), arguments, &environment);
        let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
        havre_sys::process::exit_now(code)
    })?;
    loop {
        let signal = havre_sys::signal::wait_any()?;
        if signal != Signal::CHILD.as_raw() {
            // The program may have ended a moment ago.
            let _ended = havre_sys::signal::pidfd_kill(child.pidfd.as_fd(), signal);
            continue;
        }
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == child.pid {
                let code =
                    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                return Ok(u8::try_from(code.unwrap_or(125)).unwrap_or(125));
            }
        }
    }
}
