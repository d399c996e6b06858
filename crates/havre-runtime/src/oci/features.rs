//! What `features` prints.

use havre_oci::runtime::{NamespaceKind, SeccompAction, SeccompOperator, VERSION};

use crate::capabilities::CapabilitySet;
use crate::cgroup::{Layout, Version};
use crate::error::RuntimeError;

const MOUNT_OPTIONS: [&str; 52] = [
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "idmap",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "unbindable",
    "acl",
    "rdefaults",
    "racl",
];

pub(crate) fn document() -> Result<String, RuntimeError> {
    let namespaces: Vec<&str> = NamespaceKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let actions: Vec<&str> = SeccompAction::ALL
        .iter()
        .filter(|action| **action != SeccompAction::Notify)
        .map(|action| action.as_str())
        .collect();
    let operators: Vec<&str> = SeccompOperator::ALL.iter().map(|operator| operator.as_str()).collect();
    let version = Layout::current().map(|layout| layout.version);
    let document = serde_json::json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": MOUNT_OPTIONS.iter().filter(|option| !["acl", "racl", "rdefaults"].contains(option)).collect::<Vec<_>>(),
        "linux": {
            "namespaces": namespaces,
            "capabilities": CapabilitySet::ALL.names(),
            "cgroup": {
                "v1": matches!(version, Ok(Version::V1)),
                "v2": matches!(version, Ok(Version::V2)),
                "systemd": false,
                "systemdUser": false,
                "rdma": false,
            },
            "seccomp": {
                "enabled": true,
                "actions": actions,
                "operators": operators,
                "archs": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
                "knownFlags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                "supportedFlags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": false },
        },
    });
    serde_json::to_string_pretty(&document)
        .map(|text| text + "\n")
        .map_err(|error| RuntimeError::State(error.to_string()))
}
