//! Session keyrings: a container must not see the keys of whoever started it.

use std::ffi::CStr;
use std::io;

use crate::check;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Gives the process a new session keyring called `name`.
pub fn join_session(name: &CStr) -> io::Result<()> {
    // SAFETY: the name is a valid string for the length of the call, which only reads it.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })?;
    Ok(())
}
