//! Questions to a socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use crate::check;

/// Whether the peer has read everything that was sent (`SIOCOUTQ`, unix(7) and tcp(7)).
pub fn is_drained(socket: &impl AsFd) -> io::Result<bool> {
    let mut unread: libc::c_int = 0;
    // SAFETY: the request writes one integer to a place that outlives the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
    check(libc::c_long::from(result))?;
    Ok(unread == 0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_peer_that_has_not_read_is_told_apart() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(is_drained(&ours).unwrap());
        ours.write_all(b"x").unwrap();
        assert!(!is_drained(&ours).unwrap());
        theirs.read_exact(&mut [0]).unwrap();
        assert!(is_drained(&ours).unwrap());
    }
}
