//! Containers whose namespaces this one joins.
//!
//! Invariant: what is joined is the donor's. The daemon knows a process number, and a number is given out again;
//! so the namespaces are opened here, and are the donor's because the process that has them was in the donor's
//! control group and has lived on until they were open.

use std::os::fd::{AsRawFd as _, OwnedFd};

use havre_oci::runtime::{NamespaceKind, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use super::protocol::{Donor, Failure, FailureKind};
use super::supervisor;
use crate::RuntimeError;
use crate::cgroup::Cgroup;

/// Replaces the paths of donors' namespaces by those of descriptors of this process, which must be kept until
/// the namespaces are joined.
pub(super) fn pin(spec: &mut Spec, donors: &[Donor]) -> Result<Vec<OwnedFd>, Failure> {
    let mut kept = Vec::new();
    for donor in donors {
        let gone = |_| gone(donor);
        let process = process_of(&donor.cgroup, donor.pid).map_err(|error| supervisor::failure(&error))?;
        let process = process.ok_or(()).map_err(gone)?;
        let folder = format!("/proc/{}/ns/", donor.pid);
        for namespace in spec.linux.iter_mut().flat_map(|linux| &mut linux.namespaces) {
            let Some(path) = namespace.path.as_mut().filter(|path| path.starts_with(&folder)) else {
                continue;
            };
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
            let open = rustix::fs::open(path.as_str(), flags, Mode::empty()).map_err(|_| ()).map_err(gone)?;
            let own = rustix::process::getpid().as_raw_nonzero();
            *path = format!("/proc/{own}/fd/{}", open.as_raw_fd());
            kept.push(open);
        }
        // It lives, so the number has been its own all the time.
        havre_sys::signal::pidfd_kill(&process, 0).map_err(|_| ()).map_err(gone)?;
    }
    Ok(kept)
}

/// The process with this number, if it is in the control group.
fn process_of(cgroup: &str, pid: i32) -> Result<Option<OwnedFd>, RuntimeError> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
    let is_in = Cgroup::open(cgroup)?.processes().contains(&pid);
    Ok(is_in.then_some(process))
}

/// The namespace called `name` (as in `/proc/PID/ns`) of a process in a control group; none if the process is not, or no
/// longer, there.
pub fn open_namespace(cgroup: &str, pid: i32, name: &str) -> Result<Option<OwnedFd>, RuntimeError> {
    let Some(process) = process_of(cgroup, pid)? else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = rustix::fs::open(format!("/proc/{pid}/ns/{name}"), flags, Mode::empty());
    // It lives, so the number has been its own all the time.
    let lives = havre_sys::signal::pidfd_kill(&process, 0).is_ok();
    Ok(opened.ok().filter(|_| lives))
}

/// Puts a namespace that the daemon has made in the place of the one that the container would get. The descriptor must be
/// kept until it is joined.
pub(super) fn give_network(spec: &mut Spec, network: &OwnedFd) {
    let own = rustix::process::getpid().as_raw_nonzero();
    for namespace in spec.linux.iter_mut().flat_map(|linux| &mut linux.namespaces) {
        if namespace.kind == NamespaceKind::Network {
            namespace.path = Some(format!("/proc/{own}/fd/{}", network.as_raw_fd()));
        }
    }
}

fn gone(donor: &Donor) -> Failure {
    Failure {
        kind: FailureKind::Gone,
        message: format!("cannot join the namespaces of container {}: it is not running", donor.id),
    }
}

#[cfg(test)]
mod tests {
    use havre_base::ContainerId;
    use havre_oci::runtime::{Linux, Namespace, NamespaceKind};

    use super::*;

    #[test]
    fn r26_a_number_that_is_somebody_elses_by_now_is_not_joined() {
        let own = i32::try_from(std::process::id()).unwrap();
        let path = format!("/proc/{own}/ns/net");
        let linux = Linux {
            namespaces: vec![Namespace::join(NamespaceKind::Network, path.clone())],
            ..Linux::default()
        };
        let mut spec = Spec { linux: Some(linux), ..Spec::default() };
        let mut donor =
            Donor { id: ContainerId::random(), pid: own, cgroup: "/havre-test/no-such-group".into() };
        // This process lives, and is in no group of that name.
        for pid in [own, i32::MAX, 0] {
            donor.pid = pid;
            let failure = pin(&mut spec, std::slice::from_ref(&donor)).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Gone);
            assert!(failure.message.contains("is not running"), "{}", failure.message);
        }
        assert_eq!(spec.linux.unwrap().namespaces[0].path.as_ref(), Some(&path));
    }
}
