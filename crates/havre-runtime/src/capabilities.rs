//! Capabilities: names, sets, and Docker's rules for adding and dropping.
//!
//! Invariant: a name that is not known is an error. A set may hold more than the kernel or the caller
//! has; `available` says what can be given.

use std::fmt;

use havre_oci::runtime::LinuxCapabilities;

use crate::error::RuntimeError;

/// Names by number, without `CAP_` (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What Docker gives a container that asks for nothing.
const DOCKER_DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// Every one with a name.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// The set with these bits, as in `/proc/<pid>/status`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits of the set.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set of `names`, each as in `CAP_CHOWN`.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, RuntimeError> {
        let mut set = Self::EMPTY;
        for name in names {
            set = set.union(Self::single(name.as_ref())?);
        }
        Ok(set)
    }

    /// What Docker gives a container that asks for nothing.
    pub fn docker_default() -> Self {
        let bit = |name: &&str| NAMES.iter().position(|known| known == name).map_or(0, |number| 1 << number);
        Self(DOCKER_DEFAULT.iter().map(bit).sum())
    }

    fn single(name: &str) -> Result<Self, RuntimeError> {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match NAMES.iter().position(|known| *known == short) {
            Some(number) => Ok(Self(1 << number)),
            None => Err(RuntimeError::invalid("capability", format!("unknown capability: {name:?}"))),
        }
    }

    /// Whether all of `other` are in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the capability called `name` is in the set.
    pub fn contains_name(self, name: &str) -> bool {
        Self::single(name).is_ok_and(|single| self.contains(single))
    }

    /// In either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// In both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// In this and not in the other.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Names in order, as in `CAP_CHOWN`.
    pub fn names(self) -> Vec<String> {
        let has = |number: &usize| self.0 >> number & 1 == 1;
        (0..NAMES.len()).filter(has).map(|number| format!("CAP_{}", NAMES[number])).collect()
    }

    /// The section of a spec: bounding, permitted and effective; never inheritable or ambient.
    pub fn to_spec(self) -> LinuxCapabilities {
        LinuxCapabilities {
            bounding: self.names(),
            permitted: self.names(),
            effective: self.names(),
            ..LinuxCapabilities::default()
        }
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

/// What this process is permitted now.
pub(crate) fn available_now() -> CapabilitySet {
    CapabilitySet(rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits()))
        .intersection(CapabilitySet::ALL)
}

/// What this process may give on: what it is permitted and its bounding set has.
pub fn available() -> CapabilitySet {
    let permitted = rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits())
        & CapabilitySet::ALL.bits();
    let bounded = (0..64_u32)
        .filter(|number| permitted >> number & 1 == 1)
        .filter(|number| {
            let one = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::capability_is_in_bounding_set(one).unwrap_or(false)
        })
        .fold(0, |set, number| set | 1 << number);
    CapabilitySet(bounded)
}

/// The set that Docker's `--cap-add`, `--cap-drop` and `--privileged` describe, `ALL` being what this
/// process has itself.
pub fn docker_set<S: AsRef<str>>(
    add: &[S],
    drop: &[S],
    privileged: bool,
) -> Result<CapabilitySet, RuntimeError> {
    plan_docker_set(add, drop, privileged, available())
}

/// As [`docker_set`], with `all` for `ALL`.
pub fn plan_docker_set<S: AsRef<str>>(
    add: &[S],
    drop: &[S],
    privileged: bool,
    all: CapabilitySet,
) -> Result<CapabilitySet, RuntimeError> {
    let is_all = |name: &S| name.as_ref().eq_ignore_ascii_case("all");
    let set = |names: &[S]| -> Result<CapabilitySet, RuntimeError> {
        let mut set = CapabilitySet::EMPTY;
        for name in names.iter().filter(|name| !is_all(name)) {
            set = set.union(CapabilitySet::single(name.as_ref())?);
        }
        Ok(set)
    };
    let (added, dropped) = (set(add)?, set(drop)?);
    if privileged {
        return Ok(all);
    }
    Ok(if add.iter().any(is_all) {
        all.difference(dropped)
    } else if drop.iter().any(is_all) {
        added
    } else {
        CapabilitySet::docker_default().difference(dropped).union(added)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_rules_for_adding_and_dropping() {
        let all = CapabilitySet::from_bits(0x1ff_ffff_ffff);
        let table: [(&[&str], &[&str], bool, u64); 8] = [
            (&[], &[], false, 0xa804_25fb),
            (&["NET_ADMIN"], &[], false, 0xa804_35fb),
            (&["cap_net_admin"], &["CAP_CHOWN"], false, 0xa804_35fa),
            (&["ALL"], &[], false, 0x1ff_ffff_ffff),
            (&["all"], &["SYS_ADMIN"], false, 0x1ff_ffdf_ffff),
            (&["CHOWN"], &["ALL"], false, 1),
            (&[], &["ALL"], false, 0),
            (&[], &["CHOWN"], true, 0x1ff_ffff_ffff),
        ];
        for (add, drop, privileged, bits) in table {
            assert_eq!(plan_docker_set(add, drop, privileged, all).unwrap().bits(), bits, "{add:?} {drop:?}");
        }
        assert!(plan_docker_set(&["FLY"], &[], false, all).is_err());
        assert!(plan_docker_set(&["CAP_ALL"], &[], true, all).is_err());
    }
}
