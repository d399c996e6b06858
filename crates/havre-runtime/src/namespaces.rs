//! Which namespaces a container gets, and how a process enters them.
//!
//! Invariant: what needs a namespace that the container does not have is an error, so that nothing can
//! change the host's name, clocks or parameters.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use havre_oci::runtime::{IdMapping, Linux, NamespaceKind, Spec};
use havre_sys::process::Namespaces;
use havre_sys::userns::Range;
use rustix::fs::{Mode, OFlags};

use crate::error::{RuntimeError, Step};

/// What to make and what to join.
pub(crate) struct Plan {
    /// New ones.
    pub(crate) made: Namespaces,
    /// Existing ones.
    pub(crate) joined: Vec<(NamespaceKind, OwnedFd)>,
    pub(crate) uids: Vec<Range>,
    pub(crate) gids: Vec<Range>,
    /// Lines of `timens_offsets`.
    pub(crate) offsets: Option<String>,
    /// Parameters: file below /proc/sys and value.
    pub(crate) sysctls: Vec<(String, String)>,
}

pub(crate) const fn bit(kind: NamespaceKind) -> Namespaces {
    match kind {
        NamespaceKind::Mount => Namespaces::MOUNT,
        NamespaceKind::Pid => Namespaces::PID,
        NamespaceKind::Network => Namespaces::NETWORK,
        NamespaceKind::Uts => Namespaces::UTS,
        NamespaceKind::Ipc => Namespaces::IPC,
        NamespaceKind::User => Namespaces::USER,
        NamespaceKind::Cgroup => Namespaces::CGROUP,
        NamespaceKind::Time => Namespaces::TIME,
    }
}

/// The name below `/proc/PID/ns`.
pub(crate) const fn file(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Mount => "mnt",
        NamespaceKind::Pid => "pid",
        NamespaceKind::Network => "net",
        NamespaceKind::Uts => "uts",
        NamespaceKind::Ipc => "ipc",
        NamespaceKind::User => "user",
        NamespaceKind::Cgroup => "cgroup",
        NamespaceKind::Time => "time",
    }
}

impl Plan {
    pub(crate) fn of(spec: &Spec) -> Result<Self, RuntimeError> {
        let default = Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&default);
        let mut plan = Self {
            made: Namespaces::NONE,
            joined: Vec::new(),
            uids: ranges(&linux.uid_mappings),
            gids: ranges(&linux.gid_mappings),
            offsets: None,
            sysctls: Vec::new(),
        };
        let mut all = Namespaces::NONE;
        for namespace in &linux.namespaces {
            let kind = namespace.kind;
            if all.contains(bit(kind)) {
                return Err(RuntimeError::invalid("linux.namespaces", format!("{} twice", kind.as_str())));
            }
            all = all.with(bit(kind));
            match namespace.path.as_deref().filter(|path| !path.is_empty()) {
                None => plan.made = plan.made.with(bit(kind)),
                Some(path) => plan.joined.push((kind, open(kind, path)?)),
            }
        }
        if !all.contains(Namespaces::MOUNT) {
            return Err(RuntimeError::unsupported(
                "linux.namespaces",
                "a container without a mount namespace",
            ));
        }
        plan.check_users(all)?;
        if spec.hostname.as_ref().or(spec.domainname.as_ref()).is_some_and(|name| !name.is_empty())
            && !all.contains(Namespaces::UTS)
        {
            return Err(RuntimeError::invalid("hostname", "it needs a UTS namespace of the container's own"));
        }
        if !linux.time_offsets.is_empty() {
            if !plan.made.contains(Namespaces::TIME) {
                return Err(RuntimeError::invalid("linux.timeOffsets", "they need a new time namespace"));
            }
            let mut text = String::new();
            for (clock, offset) in &linux.time_offsets {
                if clock != "monotonic" && clock != "boottime" {
                    return Err(RuntimeError::invalid("linux.timeOffsets", format!("clock {clock:?}")));
                }
                text.push_str(&format!("{clock} {} {}\n", offset.secs, offset.nanosecs));
            }
            plan.offsets = Some(text);
        }
        plan.sysctls = sysctls(&linux.sysctl, all)?;
        Ok(plan)
    }

    fn check_users(&self, all: Namespaces) -> Result<(), RuntimeError> {
        let has_maps = !self.uids.is_empty() || !self.gids.is_empty();
        if self.made.contains(Namespaces::USER) && (self.uids.is_empty() || self.gids.is_empty()) {
            return Err(RuntimeError::invalid("linux.uidMappings", "a user namespace needs both mappings"));
        }
        if has_maps && !all.contains(Namespaces::USER) {
            return Err(RuntimeError::invalid("linux.uidMappings", "they need a user namespace"));
        }
        Ok(())
    }

    pub(crate) fn is_joined(&self, kind: NamespaceKind) -> bool {
        self.joined.iter().any(|(known, _)| *known == kind)
    }

    /// Whether the container has a user namespace other than ours.
    pub(crate) fn has_users(&self) -> bool {
        self.made.contains(Namespaces::USER) || self.is_joined(NamespaceKind::User)
    }

    /// Whether a helper process has to enter the joined ones before the container's process is made: the
    /// process namespace takes effect for children only, and with a user namespace the right to enter others
    /// is lost.
    pub(crate) fn needs_helper(&self) -> bool {
        self.offsets.is_some()
            || self.is_joined(NamespaceKind::Pid)
            || self.is_joined(NamespaceKind::User)
            || (self.made.contains(Namespaces::USER) && !self.joined.is_empty())
    }

    /// Enters the joined ones. The right to enter may come from the user namespace, or be lost with it.
    pub(crate) fn join(&self) -> Result<(), RuntimeError> {
        let mut later = Vec::new();
        let users = |kind: &NamespaceKind| *kind == NamespaceKind::User;
        for (kind, fd) in self.joined.iter().filter(|(kind, _)| !users(kind)) {
            match havre_sys::process::setns(fd, bit(*kind)) {
                Ok(()) => {}
                Err(_) if self.is_joined(NamespaceKind::User) => later.push((kind, fd)),
                Err(error) => {
                    return Err(error).step_with(|| format!("join the {} namespace", kind.as_str()));
                }
            }
        }
        for (kind, fd) in
            self.joined.iter().filter(|(kind, _)| users(kind)).map(|(kind, fd)| (kind, fd)).chain(later)
        {
            havre_sys::process::setns(fd, bit(*kind))
                .step_with(|| format!("join the {} namespace", kind.as_str()))?;
        }
        Ok(())
    }
}

fn ranges(mappings: &[IdMapping]) -> Vec<Range> {
    mappings.iter().map(|map| (map.container_id, map.host_id, map.size)).collect()
}

fn open(kind: NamespaceKind, path: &str) -> Result<OwnedFd, RuntimeError> {
    let field = || format!("linux.namespaces {}", kind.as_str());
    if !path.starts_with('/') {
        return Err(RuntimeError::invalid(field(), format!("{path:?} is not an absolute path")));
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty()).step_with(|| format!("open {} {path}", field()))?;
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    if !crate::path::is_on(&fd, NSFS_MAGIC).step_with(field)? {
        return Err(RuntimeError::invalid(field(), format!("{path} is not a namespace")));
    }
    Ok(fd)
}

/// Parameters that belong to a namespace, and only those: anything else would be the host's.
fn sysctls(asked: &BTreeMap<String, String>, all: Namespaces) -> Result<Vec<(String, String)>, RuntimeError> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    asked
        .iter()
        .map(|(name, value)| {
            let bad = |reason: &str| Err(RuntimeError::invalid(format!("sysctl {name}"), reason));
            // Dots and slashes may change places: net/ipv4/conf/eth0.1/forwarding.
            let dots = name.find('.').unwrap_or(usize::MAX) < name.find('/').unwrap_or(usize::MAX);
            let file: String = if dots {
                name.chars()
                    .map(|c| match c {
                        '.' => '/',
                        '/' => '.',
                        other => other,
                    })
                    .collect()
            } else {
                name.clone()
            };
            let canonical = file.replace('/', ".");
            let needed = if IPC.contains(&canonical.as_str()) || canonical.starts_with("fs.mqueue.") {
                Namespaces::IPC
            } else if canonical.starts_with("net.") {
                Namespaces::NETWORK
            } else if canonical == "kernel.domainname" || canonical == "kernel.hostname" {
                Namespaces::UTS
            } else {
                return bad("it is not in a namespace, so it would change the host");
            };
            let plain = file.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
            if !plain || file.contains('\0') || value.contains('\0') {
                return bad("not the name of a parameter");
            }
            if !all.contains(needed) {
                return bad("it is not in a namespace of the container, so it would change the host");
            }
            Ok((file, value.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_own_namespaces_are_set() {
        let all = Namespaces::IPC.with(Namespaces::NETWORK);
        let one = |name: &str, all| sysctls(&[(name.to_owned(), "1".to_owned())].into(), all);
        assert_eq!(one("net.ipv4.ip_forward", all).unwrap(), [("net/ipv4/ip_forward".into(), "1".into())]);
        assert_eq!(
            one("net.ipv4.conf.eth0/1.forwarding", all).unwrap()[0].0,
            "net/ipv4/conf/eth0.1/forwarding"
        );
        assert_eq!(
            one("net/ipv4/conf/eth0.1/forwarding", all).unwrap()[0].0,
            "net/ipv4/conf/eth0.1/forwarding"
        );
        assert!(one("kernel.shmmax", all).is_ok() && one("fs.mqueue.msg_max", all).is_ok());
        for name in [
            "kernel.core_pattern",
            "kernel.hostname",
            "vm.swappiness",
            "net..x",
            "net./../kernel/core_pattern",
            "net/../kernel/core_pattern",
            "net.",
            "",
        ] {
            assert!(one(name, all).is_err(), "{name}");
        }
        assert!(one("net.ipv4.ip_forward", Namespaces::IPC).is_err());
    }
}
