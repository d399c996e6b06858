//! Network interfaces of the caller's namespace, as far as a container needs them before it has anything else.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::check;

/// Brings an interface up, as netdevice(7) has it.
pub fn bring_up(name: &CStr) -> io::Result<()> {
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: a structure of numbers and arrays, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = name.to_bytes();
    if bytes.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(bytes) {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    let ask = |number: libc::Ioctl, request: &mut libc::ifreq| {
        // SAFETY: both requests read and write one `ifreq`, which lives until the call returns.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), number, &raw mut *request) }.into()).map(drop)
    };
    ask(libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has written this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    request.ifr_ifru.ifru_flags = flags | up;
    ask(libc::SIOCSIFFLAGS, &mut request)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_loopback_of_this_namespace_is_up_and_unknown_ones_are_named_so() {
        super::bring_up(c"lo").unwrap_or_else(|error| {
            // Without root it cannot be changed, but is there.
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        });
        assert_eq!(super::bring_up(c"nonesuch").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(super::bring_up(c"a-name-that-is-too-long").is_err());
    }
}
