//! Session keyrings: a container must not see the keys of whoever started it.

use std::ffi::CStr;
use std::io;

use crate::check;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Gives the process the session keyring called `name`, or a new one without a name.
pub fn join_session(name: Option<&CStr>) -> io::Result<()> {
    let name = name.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the name is null or a valid string for the length of the call, which only reads it.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name) })?;
    Ok(())
}
