//! Telling the service manager what we are about: `sd_notify(3)`.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends a message to the service manager, if one listens.
pub(crate) fn tell(message: &str) {
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())
        && let Err(error) = send(path.as_encoded_bytes(), message)
    {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// The start of a reload: the manager wants to know since when.
pub(crate) fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

fn send(path: &[u8], message: &str) -> std::io::Result<()> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::new(&*String::from_utf8_lossy(path)))?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_addresses_are_reached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_encoded_bytes(), "READY=1").unwrap();
        let mut buffer = [0; 16];
        let count = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"READY=1");
        let name = format!("havre-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(format!("@{name}").as_bytes(), "STOPPING=1").unwrap();
        let count = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"STOPPING=1");
    }
}
