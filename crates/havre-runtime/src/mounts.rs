//! What the mounts of a spec mean: options parsed, sources opened.
//!
//! Invariants: an option that is not known goes to the file system, which refuses what it does not know;
//! for a bind mount, which has no file system to ask, it is an error. Sources of bind mounts are opened by
//! the parent, in the host's view and with its rights, and travel as detached mounts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use havre_oci::runtime::{IdMapping, Mount};
use havre_sys::mount::{MountAttr, Propagation, attr, mount_setattr};
use havre_sys::process::Namespaces;
use rustix::mount::OpenTreeFlags;
use rustix::process::Pid;

use crate::error::{RuntimeError, Step};
use crate::path::is_folder;

/// Options of one mount.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// Of the mount itself.
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// Of the mount and all below it.
    pub(crate) set_all: u64,
    pub(crate) clear_all: u64,
    /// Propagation, and whether it is for all below as well.
    pub(crate) propagation: Option<(Propagation, bool)>,
    /// A bind mount, and whether with all below.
    pub(crate) bind: Option<bool>,
    /// Id mapping asked for, and whether for all below.
    pub(crate) idmap: Option<bool>,
    /// What the file system gets: keys with values, and flags.
    pub(crate) data: Vec<(String, Option<String>)>,
}

/// Option, bits set, bits cleared. An access time option clears the whole choice first.
const FLAGS: [(&str, u64, u64); 20] = [
    ("ro", attr::MOUNT_ATTR_RDONLY, 0),
    ("rw", 0, attr::MOUNT_ATTR_RDONLY),
    ("nosuid", attr::MOUNT_ATTR_NOSUID, 0),
    ("suid", 0, attr::MOUNT_ATTR_NOSUID),
    ("nodev", attr::MOUNT_ATTR_NODEV, 0),
    ("dev", 0, attr::MOUNT_ATTR_NODEV),
    ("noexec", attr::MOUNT_ATTR_NOEXEC, 0),
    ("exec", 0, attr::MOUNT_ATTR_NOEXEC),
    ("nodiratime", attr::MOUNT_ATTR_NODIRATIME, 0),
    ("diratime", 0, attr::MOUNT_ATTR_NODIRATIME),
    ("nosymfollow", attr::MOUNT_ATTR_NOSYMFOLLOW, 0),
    ("symfollow", 0, attr::MOUNT_ATTR_NOSYMFOLLOW),
    ("noatime", attr::MOUNT_ATTR_NOATIME, attr::ATIME),
    ("atime", 0, attr::ATIME),
    ("relatime", attr::MOUNT_ATTR_RELATIME, attr::ATIME),
    ("norelatime", 0, attr::ATIME),
    ("strictatime", attr::MOUNT_ATTR_STRICTATIME, attr::ATIME),
    ("nostrictatime", 0, attr::ATIME),
    ("defaults", 0, 0),
    ("acl", 0, 0),
];

const PROPAGATIONS: [(&str, Propagation); 4] = [
    ("private", Propagation::Private),
    ("shared", Propagation::Shared),
    ("slave", Propagation::Slave),
    ("unbindable", Propagation::Unbindable),
];

/// A propagation word: `private`, `rslave`, ...
pub(crate) fn propagation(word: &str) -> Option<(Propagation, bool)> {
    let find = |word: &str| PROPAGATIONS.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind);
    find(word)
        .map(|kind| (kind, false))
        .or_else(|| word.strip_prefix('r').and_then(find).map(|kind| (kind, true)))
}

impl Options {
    pub(crate) fn parse(mount: &Mount) -> Result<Self, RuntimeError> {
        let mut options = Self::default();
        let field = || format!("mount {}", mount.destination);
        for option in &mount.options {
            let option = option.as_str();
            if let Some((_, set, clear)) = FLAGS.iter().find(|(name, ..)| *name == option) {
                options.clear = (options.clear | clear) & !set;
                options.set = (options.set & !clear) | set;
            } else if let Some((_, set, clear)) =
                option.strip_prefix('r').and_then(|rest| FLAGS[..18].iter().find(|(name, ..)| *name == rest))
            {
                options.clear_all = (options.clear_all | clear) & !set;
                options.set_all = (options.set_all & !clear) | set;
            } else if let Some(propagation) = propagation(option) {
                options.propagation = Some(propagation);
            } else {
                match option {
                    "bind" => options.bind = Some(options.bind.unwrap_or(false)),
                    "rbind" => options.bind = Some(true),
                    "idmap" => options.idmap = Some(options.idmap.unwrap_or(false)),
                    "ridmap" => options.idmap = Some(true),
                    "remount" | "tmpcopyup" | "copy-symlink" => {
                        return Err(RuntimeError::unsupported(field(), format!("option {option}")));
                    }
                    "" => {}
                    _ => {
                        let (key, value) = match option.split_once('=') {
                            Some((key, value)) => (key, Some(value.to_owned())),
                            None => (option, None),
                        };
                        options.data.push((key.to_owned(), value));
                    }
                }
            }
        }
        if mount.kind.as_deref() == Some("bind") && options.bind.is_none() {
            options.bind = Some(false);
        }
        if options.bind.is_some()
            && let Some((key, _)) = options.data.first()
        {
            return Err(RuntimeError::unsupported(field(), format!("option {key} of a bind mount")));
        }
        if options.bind.is_none() && (options.idmap.is_some() || !mount.uid_mappings.is_empty()) {
            return Err(RuntimeError::unsupported(field(), "id mappings of a mount that is no bind mount"));
        }
        Ok(options)
    }

    /// Applies what the mount itself should be to a detached mount.
    pub(crate) fn apply(&self, mount: impl AsFd) -> io::Result<()> {
        let mount = mount.as_fd();
        if self.set | self.clear != 0 {
            mount_setattr(
                mount,
                c"",
                false,
                MountAttr { set: self.set, clear: self.clear, ..MountAttr::default() },
            )?;
        }
        if self.set_all | self.clear_all != 0 {
            let change = MountAttr { set: self.set_all, clear: self.clear_all, ..MountAttr::default() };
            mount_setattr(mount, c"", true, change)?;
        }
        Ok(())
    }
}

/// A mount of the spec, ready for the child.
pub(crate) struct Prepared<'a> {
    pub(crate) spec: &'a Mount,
    pub(crate) options: Options,
    /// The detached mount of a bind mount, and whether it is of a folder.
    pub(crate) tree: Option<(OwnedFd, bool)>,
}

impl Prepared<'_> {
    pub(crate) fn kind(&self) -> &str {
        self.spec.kind.as_deref().unwrap_or("none")
    }

    pub(crate) fn destination(&self) -> &Path {
        Path::new(&self.spec.destination)
    }
}

/// Files below /proc that may be replaced by a mount: programs that make a container look smaller do so.
const MOUNTABLE_BELOW_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
];

/// The path without `.`, `..` and doubled slashes, taken as text.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => parts.extend(name.to_str()),
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    format!("/{}", parts.join("/"))
}

/// Makes a user namespace with the mappings of user and group ids.
type MakeMapping<'a> = dyn FnMut(&[IdMapping], &[IdMapping]) -> Result<OwnedFd, RuntimeError> + 'a;

/// Checks one mount and opens its source. `ipc` is the namespace whose messages the container shares, if it joins
/// one, and `mapping` gives the user namespace for id mappings.
pub(crate) fn prepare<'a>(
    mount: &'a Mount,
    ipc: Option<BorrowedFd<'_>>,
    mapping: &mut MakeMapping<'_>,
) -> Result<Prepared<'a>, RuntimeError> {
    let field = || format!("mount {}", mount.destination);
    let options = Options::parse(mount)?;
    let clean = clean(&mount.destination);
    if !mount.destination.starts_with('/') || mount.destination.contains('\0') {
        return Err(RuntimeError::invalid(field(), "the destination is not an absolute path"));
    }
    if clean == "/" {
        return Err(RuntimeError::invalid(field(), "a mount cannot replace the root"));
    }
    if clean.starts_with("/proc/") && !MOUNTABLE_BELOW_PROC.contains(&clean.as_str()) {
        return Err(RuntimeError::invalid(field(), "cannot be mounted because it is inside /proc"));
    }
    let Some(recursive) = options.bind else {
        if clean == "/proc" && mount.kind.as_deref() != Some("proc") {
            return Err(RuntimeError::invalid(field(), "only proc can be mounted there"));
        }
        if mount.kind.is_none() {
            return Err(RuntimeError::invalid(field(), "neither a type nor bind"));
        }
        return Ok(Prepared { spec: mount, options, tree: None });
    };
    let source = mount.source.as_deref().unwrap_or_default();
    if !source.starts_with('/') || source.contains('\0') {
        return Err(RuntimeError::invalid(field(), format!("the source {source:?} is not an absolute path")));
    }
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree =
        clone_source(source, ipc, flags).step_with(|| format!("open the source {source} of {}", field()))?;
    if clean == "/proc" && !crate::path::is_on(&tree, crate::path::PROC_MAGIC).unwrap_or(false) {
        return Err(RuntimeError::invalid(field(), "only proc can be mounted there"));
    }
    options.apply(&tree).step_with(|| format!("set options of {}", field()))?;
    if options.idmap.is_some() || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        if mount.uid_mappings.is_empty() || mount.gid_mappings.is_empty() {
            return Err(RuntimeError::invalid(
                field(),
                "an idmapped mount needs uidMappings and gidMappings",
            ));
        }
        let namespace = mapping(&mount.uid_mappings, &mount.gid_mappings)?;
        let change = MountAttr { idmap: Some(namespace.as_fd()), ..MountAttr::default() };
        mount_setattr(&tree, c"", options.idmap.unwrap_or(false), change)
            .step_with(|| format!("map the ids of {}", field()))?;
    }
    let (kind, all) = options.propagation.unwrap_or((Propagation::Private, true));
    mount_setattr(&tree, c"", all, MountAttr { propagation: Some(kind), ..MountAttr::default() })
        .step_with(|| format!("set the propagation of {}", field()))?;
    let folder = is_folder(&tree).step_with(|| format!("examine the source of {}", field()))?;
    Ok(Prepared { spec: mount, options, tree: Some((tree, folder)) })
}

/// Clones the mount at `source`. A path below `/proc/PID/root` belongs to that process's mount namespace,
/// where the kernel lets us clone it only from inside.
///
/// The memory that goes with a joined namespace is taken from a process of that namespace or not at all: the
/// number may be somebody else's by now.
fn clone_source(source: &str, ipc: Option<BorrowedFd<'_>>, flags: OpenTreeFlags) -> io::Result<OwnedFd> {
    if let (Some(ipc), Some((pid, path @ SHARED_MEMORY))) = (ipc, of_process(source)) {
        return clone_in_namespace(pid, path, Some(ipc), flags);
    }
    match rustix::mount::open_tree(rustix::fs::CWD, source, flags) {
        Err(rustix::io::Errno::INVAL) => match of_process(source) {
            Some((pid, path)) => clone_in_namespace(pid, path, None, flags),
            None => Err(rustix::io::Errno::INVAL.into()),
        },
        other => Ok(other?),
    }
}

/// Where a container has the shared memory that goes with its namespace of messages.
const SHARED_MEMORY: &str = "dev/shm";

/// `/proc/PID/root/PATH` as process and path.
fn of_process(source: &str) -> Option<(Pid, &str)> {
    let (pid, path) = source.strip_prefix("/proc/")?.split_once("/root/")?;
    Some((Pid::from_raw(pid.parse().ok()?)?, path))
}

/// Steps into the namespace, takes the mount, steps back. The caller has one thread.
fn clone_in_namespace(
    pid: Pid,
    path: &str,
    ipc: Option<BorrowedFd<'_>>,
    flags: OpenTreeFlags,
) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let own = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let theirs = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    if let Some(ipc) = ipc {
        let wanted = rustix::fs::fstat(ipc)?;
        let seen = rustix::fs::stat(format!("/proc/{}/ns/ipc", pid.as_raw_nonzero()))?;
        // As long as the process lives the number was its own.
        havre_sys::signal::pidfd_kill(&theirs, 0)?;
        if (seen.st_dev, seen.st_ino) != (wanted.st_dev, wanted.st_ino) {
            return Err(rustix::io::Errno::SRCH.into());
        }
    }
    havre_sys::process::setns(&theirs, Namespaces::MOUNT)?;
    let take = || -> io::Result<OwnedFd> {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let open = OFlags::PATH | OFlags::CLOEXEC;
        let place = rustix::fs::openat2(&root, path, open, Mode::empty(), ResolveFlags::IN_ROOT)?;
        Ok(rustix::mount::open_tree(&place, "", flags | OpenTreeFlags::AT_EMPTY_PATH)?)
    };
    let taken = take();
    // If the way back fails, this process is of no use any more: the error ends the launch.
    havre_sys::process::setns(&own, Namespaces::MOUNT)?;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_below_a_process_s_root_names_the_process() {
        let pid = Pid::from_raw(7).unwrap();
        assert_eq!(of_process("/proc/7/root/dev/shm"), Some((pid, "dev/shm")));
        for other in ["/proc/self/root/x", "/proc/7/fd/3", "/dev/shm", "/proc/0/root/x"] {
            assert_eq!(of_process(other), None, "{other}");
        }
    }

    fn parse(kind: &str, options: &[&str]) -> Result<Options, RuntimeError> {
        Options::parse(&Mount {
            destination: "/x".into(),
            kind: Some(kind.into()),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Mount::default()
        })
    }

    #[test]
    fn options_are_told_apart() {
        let options =
            parse("tmpfs", &["nosuid", "ro", "rw", "noatime", "size=64k", "mode=1777", "rprivate"]).unwrap();
        assert_eq!(options.set, attr::MOUNT_ATTR_NOSUID | attr::MOUNT_ATTR_NOATIME);
        assert_eq!(options.clear & attr::MOUNT_ATTR_RDONLY, attr::MOUNT_ATTR_RDONLY);
        assert_eq!(options.propagation, Some((Propagation::Private, true)));
        assert_eq!(options.data, [("size".into(), Some("64k".into())), ("mode".into(), Some("1777".into()))]);

        let bind = parse("bind", &["rbind", "rro", "slave"]).unwrap();
        assert_eq!((bind.bind, bind.set_all, bind.set), (Some(true), attr::MOUNT_ATTR_RDONLY, 0));
        assert_eq!(parse("bind", &[]).unwrap().bind, Some(false));
        assert_eq!(parse("tmpfs", &["relatime", "strictatime"]).unwrap().set, attr::MOUNT_ATTR_STRICTATIME);
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        assert!(parse("bind", &["size=5"]).is_err());
        assert!(parse("none", &["bind", "frobnicate"]).is_err());
        assert!(parse("tmpfs", &["tmpcopyup"]).is_err());
        assert!(parse("tmpfs", &["idmap"]).is_err());
    }

    #[test]
    fn r08_mounts_over_proc_are_refused() {
        let mut none = |_: &[IdMapping], _: &[IdMapping]| unreachable!("no mapping is asked for");
        for (destination, kind, source) in [
            ("/proc", "tmpfs", "tmpfs"),
            ("/proc", "bind", "/tmp"),
            ("/proc/self", "tmpfs", "tmpfs"),
            ("/tmp/../proc/sys", "bind", "/tmp"),
            ("/proc/../proc/1", "bind", "/tmp"),
            ("/", "tmpfs", "tmpfs"),
            ("/..", "tmpfs", "tmpfs"),
            ("relative", "tmpfs", "tmpfs"),
            ("/x", "bind", "relative"),
        ] {
            let mount = Mount {
                destination: destination.into(),
                kind: Some(kind.into()),
                source: Some(source.into()),
                ..Mount::default()
            };
            assert!(prepare(&mount, None, &mut none).is_err(), "{destination}");
        }
    }
}
