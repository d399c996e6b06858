//! The child's view of files: from a copy of the host's mounts to the container's own.
//!
//! Invariants: everything below the root is reached through descriptors (see `path`) and mounted on
//! descriptors; what masks something is verified to be our own null device or an empty file system, and is
//! looked at again after it was mounted; the host's mounts are gone before the user's program starts.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use havre_oci::runtime::{Device, DeviceKind, Spec};
use havre_sys::mount::{MountAttr, Propagation, attr, mount_setattr};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::UnmountFlags;

use crate::cgroup::{Cgroup, Version};
use crate::error::{RuntimeError, Step};
use crate::fscontext::{self, RootTree};
use crate::mounts::{self, Options, Prepared};
use crate::path::{self, Root};

/// What the child makes its root of.
pub(crate) struct Plan<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) tree: RootTree,
    pub(crate) target: PathBuf,
    pub(crate) mounts: Vec<Prepared<'a>>,
    pub(crate) cgroup: Option<&'a Cgroup>,
    /// Whether device nodes cannot be made (user namespace) and are bound from the host's.
    pub(crate) bind_devices: bool,
    /// Whether the container has a cgroup namespace of its own.
    pub(crate) own_cgroup_view: bool,
}

const DEFAULT_DEVICES: [(&str, i64, i64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const DEFAULT_LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// File systems whose superblock belongs to the kernel or to other mounts too: only the mount is read-only.
const SHARED: [&str; 7] = ["proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "tmpfs"];

impl Plan<'_> {
    fn has_own_dev(&self) -> bool {
        // A bound /dev is somebody else's: nothing is made in it.
        !self
            .mounts
            .iter()
            .any(|mount| mount.tree.is_some() && mounts::clean(&mount.spec.destination) == "/dev")
    }

    /// Attaches the root. From here on the descriptor is the way to everything.
    pub(crate) fn attach_root(&self) -> Result<OwnedFd, RuntimeError> {
        let host = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step("open /")?;
        let change = MountAttr { propagation: Some(Propagation::Private), ..MountAttr::default() };
        mount_setattr(&host, c"", true, change).step("part the mounts from the host's")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || {
            rustix::fs::open(&self.target, flags, Mode::empty())
                .step_with(|| format!("open {}", self.target.display()))
        };
        match &self.tree {
            RootTree::Mount(mount) => {
                fscontext::attach(mount, open()?).step("attach the root file system")?;
                rustix::fs::openat(mount, c".", flags, Mode::empty()).step("open the root file system")
            }
            RootTree::Classic(options) => {
                let options = std::ffi::CString::new(options.as_str())
                    .map_err(|_| RuntimeError::invalid("root", "a path has a NUL"))?;
                let none = rustix::mount::MountFlags::empty();
                rustix::mount::mount("overlay", &self.target, "overlay", none, options.as_c_str())
                    .step("mount the overlay")?;
                open()
            }
        }
    }

    /// Mounts everything; the result is the way to what is masked later.
    pub(crate) fn mount_all(&self, root: &Root<'_>) -> Result<Anchors, RuntimeError> {
        let mut anchors = Vec::new();
        for mount in &self.mounts {
            if let Some(made) = self.mount(root, mount)? {
                anchors.push((mounts::clean(&mount.spec.destination), made));
            }
        }
        Ok(Anchors(anchors))
    }

    /// Mounts one; if it is one of those that have files to mask, the result is its root.
    fn mount(&self, root: &Root<'_>, mount: &Prepared<'_>) -> Result<Option<OwnedFd>, RuntimeError> {
        let at = || format!("mount {} at {}", mount.kind(), mount.spec.destination);
        if let Some((tree, folder)) = &mount.tree {
            let target = root.ensure_target(mount.destination(), *folder).step_with(at)?;
            fscontext::attach(tree, target).step_with(at)?;
            return Ok(None);
        }
        let options = &mount.options;
        let kind = mount.kind();
        let target = match kind {
            "proc" | "sysfs" => {
                // A link here would lead every check of these file systems astray.
                root.ensure_folder(mount.destination()).step_with(at)?;
                let target = root.open_path_without_links(mount.destination()).step_with(|| {
                    format!("{} must be a folder and no link: {}", mount.spec.destination, at())
                })?;
                if !path::is_folder(&target).step_with(at)? {
                    return Err(RuntimeError::invalid(at(), "the destination is not a folder"));
                }
                target
            }
            _ => root.ensure_folder(mount.destination()).step_with(at)?,
        };
        let made = match kind {
            "cgroup" => return self.mount_cgroup(root, mount, target).map(|()| None),
            "sysfs" => match self.create(mount, kind) {
                // The network namespace belongs to the host: its sysfs can only be shown, not mounted.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && self.bind_devices => {
                    host_copy("/sys", true).and_then(|tree| options.apply(&tree).map(|()| tree))
                }
                other => other,
            },
            _ => self.create(mount, kind),
        };
        let made = made.step_with(at)?;
        fscontext::attach(&made, target).step_with(at)?;
        if let Some((kind, all)) = options.propagation {
            let change = MountAttr { propagation: Some(kind), ..MountAttr::default() };
            mount_setattr(&made, c"", all, change).step_with(at)?;
        }
        Ok(["proc", "sysfs"].contains(&kind).then_some(made))
    }

    fn create(&self, mount: &Prepared<'_>, kind: &str) -> io::Result<OwnedFd> {
        let mut options = mount.options.clone();
        options.set |= options.set_all;
        if let Some(label) = self.spec.linux.as_ref().and_then(|linux| linux.mount_label.as_ref())
            // Not mqueue: the kernel takes no label for it at mounting.
            && ["tmpfs", "devpts"].contains(&kind)
        {
            options.data.push(("context".into(), Some(label.clone())));
        }
        let read_only = options.set & attr::MOUNT_ATTR_RDONLY != 0 && !SHARED.contains(&kind);
        fscontext::create(kind, mount.spec.source.as_deref(), &options, read_only)
    }

    /// `cgroup` means the container's own group, whatever the host has.
    fn mount_cgroup(
        &self,
        root: &Root<'_>,
        mount: &Prepared<'_>,
        target: OwnedFd,
    ) -> Result<(), RuntimeError> {
        let at = || format!("mount cgroup at {}", mount.spec.destination);
        let Some(cgroup) = self.cgroup else {
            return Err(RuntimeError::invalid(at(), "the container has no cgroup"));
        };
        if cgroup.layout().version == Version::V2 {
            let made = if self.own_cgroup_view {
                self.create(mount, "cgroup2")
            } else {
                host_copy(&cgroup.folder_v2(), false)
                    .and_then(|tree| mount.options.apply(&tree).map(|()| tree))
            };
            return fscontext::attach(made.step_with(at)?, target).step_with(at);
        }
        let folder = Options {
            data: vec![("mode".into(), Some("0755".into()))],
            set: mount.options.set & !attr::MOUNT_ATTR_RDONLY,
            ..Options::default()
        };
        let tmpfs = fscontext::create("tmpfs", Some("cgroup"), &folder, false).step_with(at)?;
        fscontext::attach(&tmpfs, target).step_with(at)?;
        for (name, host) in cgroup.v1_folders() {
            // With a view of its own the container sees its group as the root of the hierarchy either way:
            // binding the group's folder shows the same files and needs no second superblock.
            let tree = host_copy(&host.to_string_lossy(), false).step_with(at)?;
            mount.options.apply(&tree).step_with(at)?;
            let place = mount.destination().join(&name);
            let target = root.ensure_folder(&place).step_with(at)?;
            fscontext::attach(&tree, target).step_with(at)?;
            // Programs look for each controller of a shared hierarchy by its own name.
            for alias in name.split(',').filter(|alias| *alias != name) {
                rustix::fs::symlinkat(name.as_str(), &tmpfs, alias).step_with(at)?;
            }
        }
        if (mount.options.set | mount.options.set_all) & attr::MOUNT_ATTR_RDONLY != 0 {
            let change = MountAttr { set: attr::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
            mount_setattr(&tmpfs, c"", false, change).step_with(at)?;
        }
        Ok(())
    }

    /// Device nodes and the links that programs expect.
    pub(crate) fn make_devices(&self, root: &Root<'_>) -> Result<(), RuntimeError> {
        let listed = self.spec.linux.as_ref().map_or(&[][..], |linux| linux.devices.as_slice());
        if self.has_own_dev() {
            for (path, major, minor) in DEFAULT_DEVICES {
                if !listed.iter().any(|device| mounts::clean(&device.path) == path) {
                    let device = Device {
                        kind: DeviceKind::Char,
                        path: path.into(),
                        major,
                        minor,
                        file_mode: Some(0o666),
                        ..Device::default()
                    };
                    self.make_device(root, &device)?;
                }
            }
            let folder = root.ensure_folder(Path::new("/dev")).step("make /dev")?;
            let link = |path: &str, to: &str| -> Result<(), RuntimeError> {
                let name = path.rsplit('/').next().unwrap_or(path);
                match rustix::fs::symlinkat(to, &folder, name) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                    Err(error) => Err(error).step_with(|| format!("make link {path}")),
                }
            };
            for (path, to) in DEFAULT_LINKS {
                link(path, to)?;
            }
            if self.mounts.iter().any(|mount| mount.kind() == "devpts") {
                link("/dev/ptmx", "pts/ptmx")?;
            }
        }
        listed.iter().try_for_each(|device| self.make_device(root, device))
    }

    fn make_device(&self, root: &Root<'_>, device: &Device) -> Result<(), RuntimeError> {
        let field = || format!("device {}", device.path);
        if !device.path.starts_with('/') || device.path.contains('\0') {
            return Err(RuntimeError::invalid(field(), "not an absolute path"));
        }
        let kind = match device.kind {
            DeviceKind::Char | DeviceKind::Unbuffered => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Fifo => FileType::Fifo,
        };
        let number =
            |number: i64| u32::try_from(number).map_err(|_| RuntimeError::invalid(field(), "number"));
        let dev = match kind {
            FileType::Fifo => 0,
            _ => rustix::fs::makedev(number(device.major)?, number(device.minor)?),
        };
        let path = PathBuf::from(mounts::clean(&device.path));
        // Engines list the host's devices for privileged containers; this one is the container's own already.
        if path == Path::new("/dev/ptmx") && dev == rustix::fs::makedev(5, 2) && self.has_own_dev() {
            return Ok(());
        }
        let same = |fd: &OwnedFd| -> io::Result<bool> {
            let stat = rustix::fs::fstat(fd)?;
            Ok(FileType::from_raw_mode(stat.st_mode) == kind
                && (kind == FileType::Fifo || stat.st_rdev == dev))
        };
        if self.bind_devices && kind != FileType::Fifo {
            let host =
                host_copy(&device.path, false).step_with(|| format!("open {} of the host", field()))?;
            if !same(&host).step_with(field)? {
                return Err(RuntimeError::unsupported(field(), "the host has another device at this path"));
            }
            let target = root.ensure_target(&path, false).step_with(field)?;
            return fscontext::attach(&host, target).step_with(|| format!("bind {}", field()));
        }
        let (folder, name) = root.ensure_parent(&path).step_with(field)?;
        let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666));
        match rustix::fs::mknodat(&folder, name, kind, mode, dev) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let there = rustix::fs::openat(&folder, name, flags, Mode::empty()).step_with(field)?;
                if !same(&there).step_with(field)? {
                    return Err(RuntimeError::invalid(field(), "something else is there"));
                }
                return Ok(());
            }
            Err(error) => return Err(error).step_with(|| format!("make {}", field())),
        }
        rustix::fs::chmodat(&folder, name, mode, rustix::fs::AtFlags::empty()).step_with(field)?;
        let (uid, gid) = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
        if (uid, gid) != (0, 0) {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::chownat(&folder, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .step_with(field)?;
        }
        Ok(())
    }

    /// Whether the path is below one that the spec mounts as `kind`.
    fn is_below(&self, path: &str, kind: &str) -> bool {
        self.mounts.iter().any(|mount| {
            let destination = mounts::clean(&mount.spec.destination);
            mount.kind() == kind && path.strip_prefix(&destination).is_some_and(|rest| rest.starts_with('/'))
        })
    }

    /// Opens what is to be masked or made read-only; `None` if it does not exist.
    fn open_protected(
        &self,
        root: &Root<'_>,
        anchors: &Anchors,
        path: &str,
    ) -> Result<Option<OwnedFd>, RuntimeError> {
        let step = || format!("protect {path}");
        if !path.starts_with('/') || path.contains('\0') {
            return Err(RuntimeError::invalid(step(), "not an absolute path"));
        }
        let clean = mounts::clean(path);
        let fd = match anchors.open_path(root, &clean) {
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
                return Ok(None);
            }
            other => other.step_with(step)?,
        };
        // Somebody who shares the root could have led us elsewhere by a link.
        for (kind, magic) in [("proc", path::PROC_MAGIC), ("sysfs", path::SYSFS_MAGIC)] {
            if self.is_below(&clean, kind) && !path::is_on(&fd, magic).step_with(step)? {
                let own_mount =
                    self.mounts.iter().any(|mount| mounts::clean(&mount.spec.destination) == clean)
                        || self.is_below(&clean, "cgroup")
                        || self.is_below(&clean, "cgroup2");
                // File systems that the kernel itself mounts below sysfs are reached through a bound /sys.
                if kind == "proc" || !(own_mount || self.bind_devices) {
                    return Err(RuntimeError::invalid(step(), format!("it is not on {kind}")));
                }
            }
        }
        Ok(Some(fd))
    }

    pub(crate) fn mask(
        &self,
        root: &Root<'_>,
        anchors: &Anchors,
        paths: &[String],
    ) -> Result<(), RuntimeError> {
        if paths.is_empty() {
            return Ok(());
        }
        let null =
            rustix::fs::open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .step("open /dev/null of the host")?;
        if !is_null(&null).step("examine /dev/null of the host")? {
            return Err(RuntimeError::invalid("/dev/null of the host", "it is not the null device"));
        }
        let mut empty: Option<OwnedFd> = None;
        for masked in paths {
            let step = || format!("mask {masked}");
            let Some(target) = self.open_protected(root, anchors, masked)? else { continue };
            let folder = path::is_folder(&target).step_with(step)?;
            let cover = if !folder {
                // Read-only, which keeps nobody from writing into it: a change of its mode would be one of the
                // host's null device.
                let cover = fscontext::copy(&null, false).step_with(step)?;
                let set = attr::MOUNT_ATTR_RDONLY | attr::MOUNT_ATTR_NOSUID | attr::MOUNT_ATTR_NOEXEC;
                let change = MountAttr { set, ..MountAttr::default() };
                mount_setattr(&cover, c"", false, change).step_with(step)?;
                cover
            } else if let Some(first) = &empty {
                fscontext::copy(first, false).step_with(step)?
            } else {
                let options = Options {
                    set: attr::MOUNT_ATTR_RDONLY
                        | attr::MOUNT_ATTR_NOSUID
                        | attr::MOUNT_ATTR_NODEV
                        | attr::MOUNT_ATTR_NOEXEC,
                    data: vec![("nr_inodes".into(), Some("2".into())), ("mode".into(), Some("0555".into()))],
                    ..Options::default()
                };
                fscontext::create("tmpfs", Some("tmpfs"), &options, true).step_with(step)?
            };
            fscontext::attach(&cover, &target).step_with(step)?;
            let seen = anchors.open_path(root, &mounts::clean(masked)).step_with(step)?;
            let covered = if folder { path::is_on(&seen, path::TMPFS_MAGIC) } else { is_null(&seen) };
            if !covered.step_with(step)? {
                return Err(RuntimeError::invalid(step(), "it is not masked after mounting"));
            }
            if folder && empty.is_none() {
                empty = Some(cover);
            }
        }
        Ok(())
    }

    pub(crate) fn protect(
        &self,
        root: &Root<'_>,
        anchors: &Anchors,
        paths: &[String],
    ) -> Result<(), RuntimeError> {
        for protected in paths {
            let step = || format!("make {protected} read-only");
            let Some(target) = self.open_protected(root, anchors, protected)? else { continue };
            let copy = fscontext::copy(&target, true).step_with(step)?;
            let change = MountAttr { set: attr::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
            mount_setattr(&copy, c"", true, change).step_with(step)?;
            fscontext::attach(&copy, &target).step_with(step)?;
            let seen = anchors.open_path(root, &mounts::clean(protected)).step_with(step)?;
            let flags = rustix::fs::fstatvfs(&seen).step_with(step)?.f_flag;
            if !flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
                return Err(RuntimeError::invalid(step(), "it is still writable after mounting"));
            }
        }
        Ok(())
    }
}

/// The roots of the file systems that have files to mask, by the paths they were mounted at.
///
/// Somebody who shares the container's root could exchange the folder they are mounted on, and have what has
/// to be masked looked for, and not found, in a folder of his own.
pub(crate) struct Anchors(Vec<(String, OwnedFd)>);

impl Anchors {
    /// A descriptor of what is at the clean path `path`.
    fn open_path(&self, root: &Root<'_>, path: &str) -> io::Result<OwnedFd> {
        let below = |(at, fd)| {
            let rest = path.strip_prefix::<&str>(at)?;
            rest.starts_with('/').then_some((fd, rest))
        };
        // The last mount there is the one that is seen.
        match self.0.iter().rev().map(|(at, fd)| (at.as_str(), fd)).find_map(below) {
            Some((anchor, rest)) => Root::new(anchor.as_fd()).open_path(Path::new(rest)),
            None => root.open_path(Path::new(path)),
        }
    }
}

/// Whether a descriptor is of the null device.
pub(crate) fn is_null(fd: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    let null = rustix::fs::makedev(1, 3);
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == null)
}

/// A detached copy of a mount of the host, taken in the child's copy of its mounts.
fn host_copy(path: &str, recursive: bool) -> io::Result<OwnedFd> {
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    fscontext::copy(fd, recursive)
}

/// Makes `root` the root and drops every other mount.
pub(crate) fn pivot(root: &OwnedFd) -> Result<(), RuntimeError> {
    rustix::process::fchdir(root).step("enter the root file system")?;
    // The old root ends up on top of the new one, where the path "." still finds it.
    rustix::process::pivot_root(c".", c".").step("change the root")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).step("drop the host's mounts")?;
    rustix::process::chdir(c"/").step("enter /")
}

/// Makes the root read-only if it should be. To be done last, while nothing has to be made in it any more.
pub(crate) fn finish_root(root: &OwnedFd, spec: &Spec) -> Result<(), RuntimeError> {
    if spec.root.as_ref().is_some_and(|root| root.readonly) {
        let change = MountAttr { set: attr::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        mount_setattr(root.as_fd(), c"", false, change).step("make the root read-only")?;
    }
    Ok(())
}

/// Sets the propagation of the root. The kernel does not change to a root that is shared, so it comes after.
pub(crate) fn propagate_root(root: &OwnedFd, spec: &Spec) -> Result<(), RuntimeError> {
    let word = spec.linux.as_ref().and_then(|linux| linux.rootfs_propagation.as_deref()).unwrap_or_default();
    if word.is_empty() {
        return Ok(());
    }
    let (kind, all) = mounts::propagation(word)
        .ok_or_else(|| RuntimeError::invalid("linux.rootfsPropagation", format!("{word:?}")))?;
    let change = MountAttr { propagation: Some(kind), ..MountAttr::default() };
    mount_setattr(root, c"", all, change).step("set the propagation of the root")
}
