//! Whether this host forwards packets at all, without which no container reaches anybody else.
//!
//! Invariant: it is turned on only where it was off, with a mark beside it, and off again when the last network has gone and
//! nobody else came to need it: a machine that was no router is none afterwards. In between it forwards for networks only,
//! which the firewall sees to.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use havre_sys::netlink::Route;

use crate::Result;
use crate::drivers::bridge;

/// The kernel's file, and the mark.
fn files(mark: &Path, ipv6: bool) -> (&'static str, PathBuf) {
    let path = if ipv6 { "/proc/sys/net/ipv6/conf/all/forwarding" } else { "/proc/sys/net/ipv4/ip_forward" };
    (path, mark.with_extension(if ipv6 { "6" } else { "4" }))
}

/// Turns forwarding on, without which no container reaches anybody else. If it is on because of us, the bridges that
/// were there before: then the host must not forward for others too.
pub(crate) fn start(mark: &Path, ipv6: bool, host: &mut Route) -> Result<Option<Vec<String>>> {
    let (path, mark) = files(mark, ipv6);
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim() == "0" => {
            if ipv6 {
                keep_learning()?;
            }
            let mut bridges = bridge::of_others(host)?;
            // The mark first: a crash in between must not open the host.
            std::fs::write(&mark, bridges.join("\n"))?;
            std::fs::write(path, "1")?;
            bridges.sort();
            Ok(Some(bridges))
        }
        // A kernel without that family.
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => match std::fs::read_to_string(&mark) {
            Ok(bridges) => Ok(Some(bridges.lines().map(str::to_owned).collect())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        },
    }
}

/// Turns it off if it is on because of us. It stays on where there is a bridge that came later: another engine's. Whether
/// it is no longer on because of us.
pub(crate) fn stop(mark: &Path, ipv6: bool, host: &mut Route) -> Result<bool> {
    let (path, mark) = files(mark, ipv6);
    let before = match std::fs::read_to_string(&mark) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        read => read?,
    };
    let later = |link: &havre_sys::netlink::link::Link| {
        link.kind.as_deref() == Some("bridge") && !before.lines().any(|name| name == link.name)
    };
    if host.links()?.iter().any(later) {
        return Ok(false);
    }
    std::fs::write(path, "0")?;
    std::fs::remove_file(&mark)?;
    Ok(true)
}

/// A host that forwards ignores advertisements of routers, and would lose its way out, unless it is told not to.
fn keep_learning() -> Result<()> {
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf")?.flatten() {
        let path = entry.path().join("accept_ra");
        if std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            std::fs::write(&path, "2")?;
        }
    }
    Ok(())
}
